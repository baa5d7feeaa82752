package main

import (
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"holdfast/layout"
	"holdfast/server"
)

func newServe() *cobra.Command {
	var cfg server.Config
	var kept bool
	size, policy := byteSize(0), onHold(layout.Fail)
	cmd := &cobra.Command{
		Use:   "serve [DIR]",
		Short: "Serve a volume: mount it and open its socket",
		Long: `Serve the volume in DIR until SIGTERM or SIGINT. On first use a volume is made
there. It is mounted at DIR/mnt and can be asked at DIR/socket. At the end all
is made durable, and DIR/mnt removed; a mount that is in use is detached after
two seconds, and its users get ENOTCONN.

DIR is /var/lib/holdfast for root, and $XDG_DATA_HOME/holdfast or
~/.local/share/holdfast for others, if it is not named.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				cfg.Dir = args[0]
			}
			// Who reads the log may end before the server does. To die of that would
			// take what all others hold, and leave the mount.
			signal.Ignore(syscall.SIGPIPE)
			if kept {
				return keep(cmd, os.Args[1:])
			}
			cfg.Size, cfg.OnHold = int64(size), layout.OnHold(policy)
			cfg.Out, cfg.Log = cmd.OutOrStdout(), cmd.ErrOrStderr()
			return server.Run(cmd.Context(), cfg)
		},
	}
	f := cmd.Flags()
	f.Var(&size, "size", "size of a new volume, for example 10G (default 10GiB); a block device is used whole")
	f.BoolVar(&cfg.DataChecksums, "data-checksums", false, "checksums of all content, in a new volume: what the device spoils is EIO, never a wrong byte")
	f.StringVar(&cfg.Device, "device", "", "file or block device for the volume's blocks (default DIR/device)")
	f.StringVar(&cfg.Mount, "mount", "", "mount point (default DIR/mnt)")
	f.BoolVar(&cfg.MountOver, "mount-over", false, "mount over a directory that is not empty")
	f.BoolVar(&cfg.NoMount, "no-mount", false, "serve the socket alone")
	f.StringVar(&cfg.Socket, "socket", "", "path of the socket (default DIR/socket)")
	f.StringVar(&cfg.Group, "group", "", "group that may use the socket (default everyone)")
	f.Var(&policy, "on-hold", "what a change does that meets a pin or an unbreakable lease of others: fail, wait, revoke or defer")
	f.BoolVar(&cfg.AllowKill, "allow-kill", false, "let a change that revokes kill the session of a context that cannot be cut otherwise")
	f.Var(policyFlag[*layout.OnClose]{&cfg.OnClose}, "on-close", "what close does of a file that the closing process has pinned: transfer (return), block (wait for the pins) or abort (with the last handle of a lease its pins go)")
	f.Var(policyFlag[*layout.OnPass]{&cfg.OnPass}, "on-pass", "what may who was passed a handle of a lease: strict (nothing by that) or share (hold it too)")
	f.BoolVar(&cfg.RecallOnChown, "recall-on-chown", false, "make unbreakable leases breakable whose holder is not the owner of the file any more")
	f.DurationVar(&cfg.BreakTime, "break-time", server.DefaultBreakTime, "how long a holder may take to give back a lease")
	f.DurationVar(&cfg.MountWait, "mount-wait", server.DefaultMountWait, "how long a change through the mount waits before EAGAIN")
	f.BoolVar(&kept, "keeper", false, "start the server as a process of its own, and again if it crashes: who has memory of files goes on by himself")
	f.Var(limitFlag{&cfg.Limits}, "limit", "what one user may use up: pins, leases, unbreakable, sessions, windows (bytes), for example pins=1000 or windows@alice=1G; none is no limit; may be given several times")
	f.StringVar(&cfg.Metrics, "metrics", "", "address for Prometheus metrics and /healthz, as 9420 or :9420 (this machine only) or 10.0.0.1:9420 (default none)")
	f.BoolVar(&cfg.LogJSON, "log-json", false, "log lines as JSON objects")
	return cmd
}

// onHold is a flag for a policy.
type onHold layout.OnHold

func (o *onHold) Set(text string) error {
	var policy layout.OnHold
	if err := policy.UnmarshalText([]byte(text)); err != nil || policy == 0 {
		return fmt.Errorf("%q is no such policy: say fail, wait, revoke or defer", text)
	}
	*o = onHold(policy)
	return nil
}

func (o *onHold) Type() string   { return "POLICY" }
func (o *onHold) String() string { return layout.OnHold(*o).String() }
