package fuse_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/internal/testserver"
	"holdfast/server"
)

// peerEnv names a directory of another filesystem, mounted by whoever runs the
// benchmark, that takes part in it.
const peerEnv = "HOLDFAST_BENCH_PEER"

// contest is a comparison of whole workloads: in each round all systems do the
// same, in an order of its own, so that what else the machine does meets all of
// them alike.
type contest struct {
	b       *testing.B
	systems []*target // the first is Holdfast
	phases  []string  // in order of appearance
	took    map[string]map[*target][]float64
}

// newContest brings up Holdfast and bare loopbacks of the same library in the given
// modes, each in a process of its own, with the peer if there is one, and the
// filesystem below them all.
func newContest(b *testing.B, modes ...string) *contest {
	testserver.NeedMount(b)
	s := testserver.Mounted(b, testserver.With(func(c *server.Config) { c.Size = 16 << 30 }))
	c := &contest{b: b, took: make(map[string]map[*target][]float64)}
	c.add("holdfast", s.Mount)
	for _, mode := range modes {
		c.add(mode, loopback(b, mode))
	}
	if peer := os.Getenv(peerEnv); peer != "" {
		dir, err := os.MkdirTemp(peer, "holdfast-bench-")
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { os.RemoveAll(dir) })
		c.add("peer", dir)
	}
	c.add("ext4", b.TempDir())
	return c
}

func (c *contest) add(name, dir string) {
	c.systems = append(c.systems, &target{name: name, dir: dir})
}

// rounds runs the workload on each system, in a new directory.
func (c *contest) rounds(workload func(r *run)) {
	for round := 0; c.b.Loop(); round++ {
		for _, i := range rand.Perm(len(c.systems)) {
			t := c.systems[i]
			dir := filepath.Join(t.dir, fmt.Sprint("round", round))
			c.must(os.Mkdir(dir, 0o755))
			workload(&run{contest: c, t: t, dir: dir})
			c.must(os.RemoveAll(dir))
		}
	}
	c.report()
}

func (c *contest) must(err error) {
	if err != nil {
		c.b.Helper()
		c.b.Fatal(err)
	}
}

// run is a workload under way on one system.
type run struct {
	*contest
	t   *target
	dir string
}

// phase measures f, which does n of what the name counts.
func (r *run) phase(name string, n int, f func()) {
	start := time.Now()
	f()
	r.note(name, float64(time.Since(start))/1e3/float64(n))
}

// note keeps the microseconds that one operation of a phase took.
func (r *run) note(name string, us float64) {
	by := r.took[name]
	if by == nil {
		by = make(map[*target][]float64)
		r.took[name] = by
		r.phases = append(r.phases, name)
	}
	by[r.t] = append(by[r.t], us)
}

// report writes a table: a line for each phase, with Holdfast's median time and
// the medians of its time by the others' in the same round.
func (c *contest) report() {
	c.b.ReportMetric(0, "ns/op") // of a round: says nothing
	var out strings.Builder
	fmt.Fprintf(&out, "\n%-28s %12s", "", "holdfast, µs")
	for _, t := range c.systems[1:] {
		fmt.Fprintf(&out, " %14s", "by "+t.name)
	}
	for _, p := range c.phases {
		ours := c.took[p][c.systems[0]]
		fmt.Fprintf(&out, "\n%-28s %12.1f", p, median(ours))
		for _, t := range c.systems[1:] {
			fmt.Fprintf(&out, " %14.2f", median(ratios(ours, c.took[p][t])))
		}
	}
	fmt.Println(out.String()) // a log would be cut
}

func ratios(ours, theirs []float64) []float64 {
	out := make([]float64, len(ours))
	for i := range out {
		out[i] = ours[i] / theirs[i]
	}
	return out
}

// envInt is a number that the one who runs the benchmark may set.
func envInt(b *testing.B, name string, otherwise int) int {
	s := os.Getenv(name)
	if s == "" {
		return otherwise
	}
	n, err := strconv.Atoi(s)
	if err != nil || n <= 0 {
		b.Fatalf("%s=%q is no count", name, s)
	}
	return n
}

// forgetNames makes the kernel forget all names and attributes that nobody uses. It
// reports whether it may.
func forgetNames() bool {
	return os.WriteFile("/proc/sys/vm/drop_caches", []byte("2"), 0) == nil
}

// BenchmarkSmallFiles makes files with 1 KiB each in directories of a thousand,
// looks at all of them, with and without what the kernel remembers, reads them, and
// removes them. HOLDFAST_BENCH_FILES says how many. Microseconds are of a file.
func BenchmarkSmallFiles(b *testing.B) {
	files := envInt(b, "HOLDFAST_BENCH_FILES", 5000)
	newContest(b, "cached", "direct").rounds(func(r *run) { r.smallFiles(files) })
}

func (r *run) smallFiles(files int) {
	const perDir = 1000
	name := func(i int) string { return filepath.Join(r.dir, fmt.Sprint("d", i/perDir), fmt.Sprint("file", i)) }
	all := func(op func(path string) error) {
		for i := range files {
			r.must(op(name(i)))
		}
	}
	var st unix.Stat_t
	stat := func(path string) error { return unix.Lstat(path, &st) }
	for i := 0; i < files; i += perDir {
		r.must(os.Mkdir(filepath.Dir(name(i)), 0o755))
	}
	content := make([]byte, 1<<10)
	r.phase("create, write 1 KiB, close", files, func() {
		all(func(path string) error { return os.WriteFile(path, content, 0o644) })
	})
	r.phase("stat, known", files, func() { all(stat) })
	if forgetNames() {
		r.phase("stat, forgotten", files, func() { all(stat) })
		forgetNames()
	}
	r.phase("ls -l", files, func() {
		for i := 0; i < files; i += perDir {
			entries, err := os.ReadDir(filepath.Dir(name(i)))
			r.must(err)
			for _, e := range entries {
				_, err := e.Info()
				r.must(err)
			}
		}
	})
	r.phase("open, read, close", files, func() {
		all(func(path string) error { _, err := os.ReadFile(path); return err })
	})
	r.phase("rename", files, func() { all(func(path string) error { return os.Rename(path, path+".new") }) })
	r.phase("unlink", files, func() { all(func(path string) error { return unix.Unlink(path + ".new") }) })
	r.phase("create, empty", files, func() {
		all(func(path string) error { return unix.Mknod(path, unix.S_IFREG|0o644, 0) })
	})
}

// BenchmarkTree unpacks a tree of sources with its git repository, asks git for its
// state, which reads all files the first time and looks at them the second, and
// removes all. HOLDFAST_BENCH_TREE is the tree; otherwise a part of Go's own.
// Microseconds are of a file.
func BenchmarkTree(b *testing.B) {
	tree := os.Getenv("HOLDFAST_BENCH_TREE")
	if tree == "" {
		root, err := exec.Command("go", "env", "GOROOT").Output()
		must(b, err)
		tree = filepath.Join(strings.TrimSpace(string(root)), "src", "cmd")
	}
	archive, files := treeArchive(b, tree)
	newContest(b, "cached", "direct").rounds(func(r *run) {
		r.phase("tar x", files, func() { r.must(command(r.dir, "tar", "xf", archive)) })
		r.phase("git status, first", files, func() { r.must(command(r.dir, "git", "status", "--porcelain")) })
		r.phase("git status", files, func() { r.must(command(r.dir, "git", "status", "--porcelain")) })
		if forgetNames() {
			r.phase("git status, forgotten", files, func() { r.must(command(r.dir, "git", "status", "--porcelain")) })
		}
		r.phase("cp -r", files, func() { r.must(command(r.dir, "cp", "-r", "tree", "copy")) })
		r.phase("rm -r", files, func() { r.must(command(r.dir, "rm", "-r", "copy")) })
	})
}

// treeArchive returns a tar archive of a copy of tree, called tree, beside its git
// repository, and how many files the tree has.
func treeArchive(b *testing.B, tree string) (path string, files int) {
	dir := b.TempDir()
	work := filepath.Join(dir, "work")
	path = filepath.Join(dir, "archive.tar")
	for _, c := range [][]string{
		{dir, "git", "init", "-q", work},
		{work, "cp", "-r", tree, "tree"},
		{work, "git", "add", "-A"},
		{work, "git", "-c", "user.name=bench", "-c", "user.email=bench@example.org", "commit", "-q", "-m", "tree"},
		{work, "tar", "cf", path, "."},
	} {
		if err := command(c[0], c[1], c[2:]...); err != nil {
			b.Skipf("no tree: %v", err)
		}
	}
	err := filepath.WalkDir(work, func(_ string, e os.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			files++
		}
		return err
	})
	if err != nil {
		b.Fatal(err)
	}
	return path, files
}
