package server

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// holder says in words which process has locked the file at path, or nothing: another
// namespace has other numbers, and not every host's locks name the file as stat does.
func holder(path string) string {
	var st syscall.Stat_t
	if err := syscall.Stat(path, &st); err != nil {
		return ""
	}
	locks, err := os.Open("/proc/locks")
	if err != nil {
		return ""
	}
	defer locks.Close()
	if pid := flockOf(locks, st.Dev, st.Ino); pid > 0 {
		return fmt.Sprintf(" by process %d", pid)
	}
	return ""
}

// flockOf finds the flock of a file in the text of /proc/locks:
//
//	1: FLOCK  ADVISORY  WRITE 4711 fe:00:131 0 EOF
func flockOf(locks io.Reader, dev, ino uint64) (pid int) {
	file := fmt.Sprintf("%02x:%02x:%d", unix.Major(dev), unix.Minor(dev), ino)
	for lines := bufio.NewScanner(locks); lines.Scan(); {
		f := strings.Fields(lines.Text())
		if len(f) >= 6 && f[1] == "FLOCK" && f[5] == file {
			fmt.Sscan(f[4], &pid)
			return pid
		}
	}
	return 0
}
