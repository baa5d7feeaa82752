package test

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
)

// TestScenario01Listing: the listing by process names the socket or ring that pins, the file below it, and every copy of the
// context's handle, from the kernel: that which only another process has, and that which is on its way.
func TestScenario01Listing(t *testing.T) {
	t.Parallel()
	v := serveScenario(t)
	eachMechanism(t, func(t *testing.T, m mechanism) {
		h := holdFile(t, v, m, "listed-"+m.name)
		listing := func(p *actor) string { return v.ask(t, "holders", fmt.Sprint(p.pid())) }
		real := regexp.MustCompile(`(?m)^\d+: \S*` + map[string]string{"AF_XDP": `socket:\[\d+\] AF_XDP`, "io_uring": `anon_inode:\[io_uring\]`}[m.name] + "\n\t/listed-" + m.name + "$")
		handle := regexp.MustCompile(`(?m)^\d+: handle of context \d+ \(.*\)\n\t/listed-` + m.name + "$")
		if text := listing(h.a); !real.MatchString(text) || !handle.MatchString(text) {
			t.Errorf("the holder's own descriptors are not both listed:\n%s", text)
		}
		if text := listing(h.b); text != "" {
			t.Errorf("listed for a process that has nothing:\n%s", text)
		}
		h.a.do("SendHandle", Do{Name: "ctx"})
		h.a.kill()
		eventually(t, "the handle that is on its way is elsewhere", func() bool {
			_, text, _ := strings.Cut(v.ask(t, "holders"), "elsewhere\n")
			return strings.Contains(text, "handle of context") && strings.Contains(text, "/listed-"+m.name+"\n")
		})
		h.b.do("ReceiveHandle", Do{Name: "ctx"})
		if text := listing(h.b); !handle.MatchString(text) || real.MatchString(text) {
			t.Errorf("who has received a copy:\n%s", text)
		}
		h.letGo(t)
		if text := v.ask(t, "holders"); strings.Contains(text, "/listed-"+m.name+"\n") {
			t.Errorf("after the last close:\n%s", text)
		}
	})
}
