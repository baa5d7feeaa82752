package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"holdfast/arbiter"
)

func newEvents() *cobra.Command {
	var a asking
	cmd := &cobra.Command{
		Use:   "events",
		Short: "Follow what happens: grants, breaks, refusals and their reasons",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, w := cmd.Context(), cmd.OutOrStdout()
			s, err := a.dial(ctx, nil)
			if err != nil {
				return err
			}
			defer s.Close()
			sub, err := s.Subscribe(ctx)
			if err != nil {
				return err
			}
			defer sub.Close()
			fmt.Fprintln(cmd.ErrOrStderr(), "holdfast: following events; end with Ctrl-C")
			var lost uint64
			for {
				raw, dropped, err := sub.Next(ctx)
				switch {
				case ctx.Err() != nil:
					return nil // interrupted: that is how one stops it
				case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET):
					return errors.New("the server has ended")
				case err != nil:
					return err
				}
				if dropped > lost {
					fmt.Fprintf(cmd.ErrOrStderr(), "holdfast: %d events were lost because they were not read in time\n", dropped-lost)
					lost = dropped
				}
				if err := a.printEvent(w, raw); err != nil {
					return err
				}
			}
		},
	}
	a.flags(cmd)
	return cmd
}

func (a *asking) printEvent(w io.Writer, raw json.RawMessage) error {
	return show(a, w, raw, func(w io.Writer, e arbiter.Event) {
		var b strings.Builder
		fmt.Fprintf(&b, "%s %-13s", e.Time.Local().Format("15:04:05.000"), e.Kind)
		if e.Path != "" {
			fmt.Fprintf(&b, " %s", e.Path)
		}
		if e.Range != nil {
			fmt.Fprintf(&b, " %v", *e.Range)
		}
		if e.Lease != 0 {
			fmt.Fprintf(&b, " lease %d", e.Lease)
		}
		if e.Pin != 0 {
			fmt.Fprintf(&b, " pin %d", e.Pin)
		}
		if e.Session != 0 {
			fmt.Fprintf(&b, " session %d", e.Session)
		}
		if e.PID != 0 {
			fmt.Fprintf(&b, " pid %d", e.PID)
		}
		if e.Class != 0 {
			fmt.Fprintf(&b, " (%s)", e.Class)
		}
		if e.Errno != 0 {
			fmt.Fprintf(&b, ": %v", e.Errno)
		}
		if e.Reason != "" {
			fmt.Fprintf(&b, ": %s", e.Reason)
		}
		fmt.Fprintln(w, b.String())
	})
}
