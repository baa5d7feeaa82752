// Package spec holds the model of the rules in Promela, and tests that spin finds it sound, every broken variant of it wrong,
// and that the machine of layout does only what the model can do.
package spec

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func needSpin(t *testing.T) {
	for _, tool := range []string{"spin", "gcc"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is not installed", tool)
		}
	}
}

func copyModel(t *testing.T) string {
	dir := t.TempDir()
	for _, name := range []string{"holdfast.pml", "world.inc", "replay.inc"} {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func runIn(t *testing.T, dir, name string, args ...string) string {
	out, err := command(t, dir, name, args...)
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return out
}

func command(t *testing.T, dir, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// check has spin search all states of a variant, and returns what its verifier printed.
func check(t *testing.T, opt string, liveness bool, acquires, changes int, defines ...string) string {
	defines = append(defines, fmt.Sprint("-DACQUIRES=", acquires), fmt.Sprint("-DCHANGES=", changes))
	dir := copyModel(t)
	cc, pan := []string{opt, "-w", "-DCOLLAPSE", "-DMEMLIM=2900", "-o", "pan", "pan.c"}, []string{"-m200000"}
	if liveness {
		defines = append(defines, "-DLIVENESS")
		cc, pan = append(cc, "-DNFAIR=4"), append(pan, "-a", "-f")
	} else {
		cc = append(cc, "-DSAFETY")
	}
	runIn(t, dir, "spin", append(defines, "-a", "holdfast.pml")...)
	runIn(t, dir, "gcc", cc...)
	return runIn(t, dir, "./pan", pan...)
}

func TestModel(t *testing.T) {
	needSpin(t)
	if testing.Short() {
		t.Skip("it takes minutes")
	}
	for _, v := range []struct {
		name              string
		liveness          bool
		acquires, changes int
	}{
		{"safety, two grants and a change", false, 2, 1},
		{"safety, a grant and two changes", false, 1, 2},
		{"every break ends", true, 2, 1},
	} {
		t.Run(v.name, func(t *testing.T) {
			out := check(t, "-O2", v.liveness, v.acquires, v.changes)
			for _, no := range []string{"max search depth too small", "Search not completed", "out of memory"} {
				if strings.Contains(out, no) {
					t.Fatal(out)
				}
			}
			if !strings.Contains(out, "errors: 0") {
				t.Fatal(out)
			}
			for line := range strings.Lines(out) {
				if strings.Contains(line, "states, stored") || strings.Contains(line, "elapsed") || strings.Contains(line, "actual memory") {
					t.Log(strings.TrimSpace(line))
				}
			}
		})
	}
}

// TestBrokenModel breaks each property once, and spin must see that very one.
func TestBrokenModel(t *testing.T) {
	needSpin(t)
	if testing.Short() {
		t.Skip("it takes minutes")
	}
	const reuse, endless = "assertion violated  !(((((s[0].window==", "acceptance cycle"
	const stuck = "assertion violated (((((change==0)&& !((s[0].lease!=0)))"
	for _, v := range []struct {
		bug, want         string
		acquires, changes int
	}{
		{"PINS_IGNORED", "assertion violated (((change!=2)||(policy>=2))||", 1, 1},
		{"OTHERS_FORGOTTEN", "assertion violated ((change!=3)||", 1, 1},
		{"NOT_DETACHED", reuse, 1, 1},
		{"NOT_FENCED", reuse, 1, 1},
		{"NOT_DURABLE", reuse, 1, 1},
		{"RESTART_FORGETS", reuse, 1, 1},
		{"ORPHANS_FREED", reuse, 1, 1},
		{"REUSED_BEFORE_DURABLE", "assertion violated (own[(freed-1)]==3)", 1, 1},
		{"GRANT_UNDER_BARRIER", "assertion violated ((change==0)||(caller==i))", 1, 1},
		{"PIN_UNDER_BARRIER", "assertion violated (change==0)", 1, 1},
		{"REFUSED_TOO_LATE", "assertion violated ((change!=0)||(((lease0==", 2, 1},
		{"WAITS_FOR_ITSELF", stuck, 1, 2},
		{"LOST_WAKEUP", stuck, 1, 1},
		{"NO_DEADLINE", endless, 1, 1},
		{"NEVER_CUT", endless, 1, 1},
	} {
		t.Run(v.bug, func(t *testing.T) {
			out := check(t, "-O0", v.want == endless, v.acquires, v.changes, "-DBUG_"+v.bug)
			if !strings.Contains(out, v.want) {
				t.Fatal(out)
			}
		})
	}
}
