// Package mountinfo finds Holdfast's mounts in the kernel's list of mounts.
//
// It only reads /proc/self/mountinfo. It never looks at a mount point itself:
// that would send a request to the server behind it, which may be the caller or
// may be dead.
package mountinfo

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// FSType is the filesystem type of Holdfast's mounts.
const FSType = "fuse.holdfast"

// Mount is a line of mountinfo.
type Mount struct {
	// Path is the mount point, free of escapes.
	Path string
	// Dev is what stat reports as st_dev for every file of the mount.
	Dev uint64
	// FSType and Source are what mount(2) was given.
	FSType, Source string
}

// List returns the mounts that this process can see, in the order in which they
// were mounted.
func List() ([]Mount, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return parse(f)
}

// Holdfast returns the mounts of type fuse.holdfast.
func Holdfast() ([]Mount, error) {
	all, err := List()
	var out []Mount
	for _, m := range all {
		if m.FSType == FSType {
			out = append(out, m)
		}
	}
	return out, err
}

// At returns the mount that is on top at path, which must be absolute and free
// of symbolic links. ok is false if path is no mount point.
func At(path string) (m Mount, ok bool, err error) {
	all, err := List()
	for _, c := range all {
		if c.Path == path {
			m, ok = c, true // the last one is on top
		}
	}
	return m, ok, err
}

// parse reads lines in the format of proc(5):
//
//	36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue
func parse(r io.Reader) ([]Mount, error) {
	var out []Mount
	sc := bufio.NewScanner(r)
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		m, err := parseLine(sc.Text())
		if err != nil {
			return out, err
		}
		out = append(out, m)
	}
	return out, sc.Err()
}

func parseLine(line string) (Mount, error) {
	before, after, ok := strings.Cut(line, " - ")
	f, g := strings.Fields(before), strings.Fields(after)
	if !ok || len(f) < 5 || len(g) < 2 {
		return Mount{}, fmt.Errorf("mountinfo: odd line %q", line)
	}
	major, minor, ok := strings.Cut(f[2], ":")
	ma, err1 := strconv.ParseUint(major, 10, 32)
	mi, err2 := strconv.ParseUint(minor, 10, 32)
	if !ok || errors.Join(err1, err2) != nil {
		return Mount{}, fmt.Errorf("mountinfo: odd device in %q", line)
	}
	return Mount{
		Path: unescape(f[4]), Dev: unix.Mkdev(uint32(ma), uint32(mi)),
		FSType: unescape(g[0]), Source: unescape(g[1]),
	}, nil
}

// unescape undoes the kernel's \ooo for space, tab, newline, backslash and '#'.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
