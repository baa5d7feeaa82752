package test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestCopiers: rsync, tar and `holdfast snapshot` bring in what a tree can have, and take it out again as it was.
func TestCopiers(t *testing.T) {
	t.Parallel()
	for _, p := range []string{"rsync", "setfacl", "getfattr"} {
		need(t, p)
	}
	v := serve(t, "--size", "512M")
	from := v.path("from")
	richTree(t, from)
	want := treeFacts(t, from)

	t.Run("rsync", func(t *testing.T) {
		to := v.path("rsync")
		mustRun(t, "rsync", "-aHAXS", from+"/", to)
		wantFacts(t, want, treeFacts(t, to))
		wantSparse(t, filepath.Join(to, "sparse"))
		must(t, os.WriteFile(filepath.Join(from, "plain"), []byte("changed"), 0o640))
		mustRun(t, "rsync", "-aHAXS", "--checksum", "--delete", from+"/", to)
		wantFacts(t, treeFacts(t, from), treeFacts(t, to))
		if out := mustRun(t, "rsync", "-aHAXSn", "--checksum", "--itemize-changes", "--delete", from+"/", to); out != "" {
			t.Errorf("rsync still sees differences:\n%s", out)
		}
	})
	t.Run("tar", func(t *testing.T) {
		want := treeFacts(t, from)
		archive, to := filepath.Join(t.TempDir(), "a.tar"), v.path("tar")
		must(t, os.Mkdir(to, 0o755))
		mustRun(t, "tar", "-C", from, "--xattrs", "--acls", "--sparse", "--format=posix", "-cf", archive, ".")
		mustRun(t, "tar", "-C", to, "--xattrs", "--xattrs-include=*", "--acls", "-xpf", archive)
		wantFacts(t, want, treeFacts(t, to))
		wantSparse(t, filepath.Join(to, "sparse"))
		var tarred unix.Stat_t
		must(t, unix.Stat(archive, &tarred))
		if tarred.Size > 4<<20 {
			t.Errorf("the archive of a sparse tree has %d bytes: tar did not see the holes", tarred.Size)
		}
	})
	v.stop(t)
	v.check(t)
	v.start(t)
	t.Run("after a remount", func(t *testing.T) { wantFacts(t, treeFacts(t, from), treeFacts(t, v.path("tar"))) })
	t.Run("snapshot", func(t *testing.T) {
		want := treeFacts(t, from)
		must(t, os.Mkdir(v.path("heir"), 0o755))
		mustRun(t, "setfacl", "-m", "d:u:77:rwx,d:m:rwx", v.path("heir")) // and not to clones
		mustRun(t, v.bin, "snapshot", from, v.path("heir", "snapshot"))
		mustRun(t, v.bin, "clone", v.path("from", "plain"), v.path("heir", "clone"))
		for _, show := range [][]string{{"getfacl", "-pcn"}, {"getfattr", "--only-values", "-dm", "user|trusted"}, {"stat", "-c", "%a %u:%g %s %y"}} {
			of := func(path string) string { return mustRun(t, show[0], append(show[1:], path)...) }
			if got, want := of(v.path("heir", "clone")), of(v.path("from", "plain")); got != want {
				t.Errorf("%s of a clone: %s, want %s", show[0], got, want)
			}
		}
		both := treeFacts(t, v.path("heir"))
		v.kill() // what is there is durable
		v.check(t)
		v.start(t)
		wantFacts(t, both, treeFacts(t, v.path("heir")))
		wantFacts(t, want, treeFacts(t, v.path("heir", "snapshot")))
	})
}

// wantSparse: a copy of the sparse file of a richTree has its holes.
func wantSparse(t *testing.T, path string) {
	t.Helper()
	var st unix.Stat_t
	must(t, unix.Stat(path, &st))
	if st.Blocks*512 > 1<<20 {
		t.Errorf("%s has %d bytes of blocks for 24 KiB of content", path, st.Blocks*512)
	}
}

// richTree makes a tree with all that a copy can lose.
func richTree(t *testing.T, dir string) {
	t.Helper()
	must(t, os.MkdirAll(filepath.Join(dir, "sub", "deep"), 0o755))
	in := func(name string) string { return filepath.Join(dir, name) }
	must(t, os.WriteFile(in("plain"), pattern(1, 10000), 0o640))
	must(t, os.WriteFile(in("empty"), nil, 0o400))
	must(t, os.Link(in("plain"), in("sub/hard")))
	must(t, os.Symlink("../plain", in("sub/soft")))
	must(t, os.Symlink(strings.Repeat("x", 4000), in("long")))
	must(t, os.WriteFile(in("sub/deep/"+strings.Repeat("n", 255)), []byte("n"), 0o600))
	must(t, unix.Mkfifo(in("fifo"), 0o620))
	sparse, err := os.Create(in("sparse"))
	must(t, err)
	defer sparse.Close()
	for _, off := range []int64{0, 5 << 20, 63<<20 + 12345} {
		_, err := sparse.WriteAt(pattern(byte(off>>20), 8192), off)
		must(t, err)
	}
	must(t, sparse.Truncate(80<<20))
	must(t, unix.Setxattr(in("plain"), "user.colour", []byte("green"), 0))
	must(t, unix.Setxattr(in("sub"), "user.big", pattern(2, 3000), 0))
	for i := range 100 {
		must(t, os.WriteFile(in(fmt.Sprintf("sub/deep/%03d", i)), pattern(byte(i), 100*i), 0o644))
	}
	mustRun(t, "setfacl", "-m", "u:1234:rwx,d:g:4321:rx", in("sub"))
	if os.Geteuid() == 0 {
		must(t, os.Chown(in("empty"), 1234, 4321))
		must(t, unix.Mknod(in("null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
		must(t, unix.Setxattr(in("plain"), "trusted.secret", []byte("s"), 0))
	}
}

// treeFacts says in lines what can be seen of a tree: names, attributes, links, contents, extended attributes, ACLs.
func treeFacts(t *testing.T, dir string) string {
	t.Helper()
	script := `find . -printf '%p %y %m %U:%G %n %T@ %l\n' | sed 's/^\(.* d [0-9]* [0-9:]*\) [0-9]* /\1 /' | sort
		find . -type f -printf '%s %p\n' | sort
		find . -type f -exec sha256sum {} + | sort -k2
		find . -type c -exec stat -c '%n %t:%T' {} +
		find . ! -type l -print0 | sort -z | xargs -0 getfattr -d -m 'user|trusted'
		find . ! -type l -print0 | sort -z | xargs -0 getfacl -n`
	r := runIn(t, dir, nil, "sh", "-c", script)
	if r.status != 0 || r.err != "" {
		t.Fatalf("%d %s", r.status, r.err)
	}
	return r.out
}

func wantFacts(t *testing.T, want, got string) {
	t.Helper()
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	for i := range max(len(w), len(g)) {
		a, b := "nothing", "nothing"
		if i < len(w) {
			a = w[i]
		}
		if i < len(g) {
			b = g[i]
		}
		if a != b {
			t.Fatalf("line %d:\nwas %s\nis  %s", i, a, b)
		}
	}
}
