package server

import (
	"maps"

	"golang.org/x/sys/unix"

	"holdfast/arbiter"
)

// limits are those of the configuration. A user may have an eighth of the machine's memory in windows if nothing else is said:
// half of what all together may.
func (c *Config) limits() arbiter.Limits {
	ls := arbiter.Limits{}
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err == nil {
		ls[arbiter.UserLimit{User: arbiter.Everyone, Limit: arbiter.LimitWindows}] = int64(info.Totalram) * int64(info.Unit) / 8
	}
	maps.Copy(ls, c.Limits)
	return ls
}
