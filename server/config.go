package server

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"holdfast/arbiter"
	"holdfast/layout"
	"holdfast/volume"
)

// Defaults of a Config.
const (
	DefaultSize      = 10 << 30
	DefaultBreakTime = 45 * time.Second
	DefaultMountWait = time.Second
)

// Config says what to serve and how. Dir is enough.
type Config struct {
	// Dir holds the volume. It is made, and a volume in it, on first use.
	Dir string
	// Device is the file or block device with the volume's blocks.
	// Empty: Dir/device.
	Device string
	// MaxFiles is how many files the kernel may know before it is asked to forget
	// some; zero: a million.
	MaxFiles int
	// Size is the size of a new device file. Zero: DefaultSize. A block device is
	// used whole. It does not change a volume that exists.
	Size int64
	// DataChecksums gives a new volume checksums of its content. A volume that was made
	// without them is refused; one that has them keeps them without this.
	DataChecksums bool
	// Mount is the mount point. Empty: Dir/mnt.
	Mount string
	// MountOver lets the mount hide what is at the mount point. Dir/mnt needs no leave.
	MountOver bool
	// NoMount serves the socket alone.
	NoMount bool
	// Socket is the path of the local socket. Empty: Dir/socket.
	Socket string
	// Group may use the socket; others may not. Empty: everyone may.
	Group string
	// OnHold is what a change does that meets an unbreakable lease or a pin.
	OnHold layout.OnHold
	// OnClose is what the close of a file does that the closing session has pinned.
	OnClose layout.OnClose
	// OnPass is what the receiver of a lease's handle may do.
	OnPass layout.OnPass
	// AllowKill lets a change that revokes kill a session as the last resort.
	AllowKill bool
	// RecallOnChown makes unbreakable leases breakable when a file goes to another owner than their holders.
	RecallOnChown bool
	// BreakTime is how long a holder may take to give back.
	BreakTime time.Duration
	// MountWait bounds the wait of a change through the mount.
	MountWait time.Duration
	// BootID names this boot of the machine. Empty: the kernel's word.
	BootID string
	// ReclaimTime is how long after a start an alarm is raised for a process that lives and has not come
	// back for the memory that a former server gave it. Zero: 10 s.
	ReclaimTime time.Duration
	// Limits are what each user can use up.
	Limits arbiter.Limits
	// Metrics is the address at which metrics and health are served over HTTP. Empty: nowhere. Without a host:
	// on the loopback only.
	Metrics string
	// LogJSON makes log lines JSON objects.
	LogJSON bool
	// Log takes the log, Out what a person or a script waits for: the lines that
	// say where mount and socket are.
	Log, Out io.Writer `json:"-"`
	// Ready, if set, is called once when everything is served.
	Ready func(Addresses) `json:"-"`

	committed func(time.Duration) // is told how long each commit took
}

// Addresses say where a running server can be reached.
type Addresses struct {
	// Mount is empty if there is no mount.
	Mount  string
	Socket string
	// Metrics is host and port, empty if there are none.
	Metrics string
}

// DefaultDir is where a volume lies if nothing else is said.
func DefaultDir() (string, error) {
	if os.Geteuid() == 0 {
		return "/var/lib/holdfast", nil
	}
	if d := os.Getenv("XDG_DATA_HOME"); filepath.IsAbs(d) {
		return filepath.Join(d, "holdfast"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("no directory given and none can be guessed: %w", err)
	}
	return filepath.Join(home, ".local", "share", "holdfast"), nil
}

// bootID returns what names this boot. Where that cannot be found out, nothing is kept
// from one server to the next.
func (c *Config) bootID() string {
	if c.BootID != "" {
		return c.BootID
	}
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return fmt.Sprint("unknown, ", time.Now().UnixNano())
	}
	return strings.TrimSpace(string(id))
}

// ownMount is the mount point in the directory of the volume.
const ownMount = "mnt"

func (c *Config) ownMount() string { return filepath.Join(c.Dir, ownMount) }

// complete fills in what was left empty and makes paths absolute.
func (c *Config) complete() error {
	if c.Dir == "" {
		dir, err := DefaultDir()
		if err != nil {
			return err
		}
		c.Dir = dir
	}
	for _, p := range []struct {
		path *string
		name string
	}{{&c.Dir, ""}, {&c.Device, "device"}, {&c.Mount, ownMount}, {&c.Socket, "socket"}} {
		if *p.path == "" {
			*p.path = filepath.Join(c.Dir, p.name)
		}
		abs, err := filepath.Abs(*p.path)
		if err != nil {
			return err
		}
		*p.path = abs
	}
	if c.BreakTime == 0 {
		c.BreakTime = DefaultBreakTime
	}
	if c.MountWait == 0 {
		c.MountWait = DefaultMountWait
	}
	if c.Log == nil {
		c.Log = os.Stderr
	}
	if c.Out == nil {
		c.Out = os.Stdout
	}
	switch {
	case c.Size != 0 && c.Size < volume.MinSize:
		return fmt.Errorf("a volume of %d bytes is too small: it needs at least %d", c.Size, volume.MinSize)
	case c.OnHold > layout.Defer:
		return fmt.Errorf("on-hold %v: say fail, wait, revoke or defer", c.OnHold)
	case c.BreakTime < 0 || c.MountWait < 0:
		return errors.New("break time and mount wait cannot be negative")
	}
	return nil
}
