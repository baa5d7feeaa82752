// Package spec holds the model of the rules in Promela, and tests that spin finds it sound, every broken variant of it wrong,
// and that the machine of layout does only what the model can do.
package spec

import (
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
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// check has spin search all states of a variant, and returns what its verifier printed.
func check(t *testing.T, opt string, liveness bool, defines ...string) string {
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
	for name, liveness := range map[string]bool{"safety": false, "every break ends": true} {
		t.Run(name, func(t *testing.T) {
			out := check(t, "-O2", liveness, "-DACQUIRES=2", "-DCHANGES=1")
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
	for bug, want := range map[string]string{
		"PINS_IGNORED":          "assertion violated ((change!=3)",
		"NOT_DETACHED":          "assertion violated  !(((((s[0].window==",
		"NOT_DURABLE":           "assertion violated  !(((((s[0].window==",
		"RESTART_FORGETS":       "assertion violated  !(((((s[0].window==",
		"REUSED_BEFORE_DURABLE": "assertion violated  !(early)",
		"GRANT_UNDER_BARRIER":   "assertion violated ((change==0)||(caller==i))",
		"PIN_UNDER_BARRIER":     "assertion violated (change==0)",
		"REFUSED_TOO_LATE":      "assertion violated (((lease0==s[0].lease)",
		"WAITS_FOR_ITSELF":      "assertion violated ((change!=3)",
		"NO_DEADLINE":           "acceptance cycle",
	} {
		t.Run(bug, func(t *testing.T) {
			acquires := "-DACQUIRES=1"
			if bug == "PINS_IGNORED" || bug == "REFUSED_TOO_LATE" {
				acquires = "-DACQUIRES=2"
			}
			if out := check(t, "-O0", bug == "NO_DEADLINE", acquires, "-DCHANGES=1", "-DBUG_"+bug); !strings.Contains(out, want) {
				t.Fatal(out)
			}
		})
	}
}
