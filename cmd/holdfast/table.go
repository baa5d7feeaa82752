package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"holdfast/arbiter"
)

// table prints rows under a heading, in columns.
func table(w io.Writer, heading []string, rows [][]string) {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, strings.Join(heading, "\t"))
	for _, r := range rows {
		fmt.Fprintln(tw, strings.Join(r, "\t"))
	}
	tw.Flush()
}

func printLeases(w io.Writer, leases []arbiter.LeaseInfo) {
	if len(leases) == 0 {
		fmt.Fprintln(w, "no leases")
		return
	}
	rows := make([][]string, len(leases))
	for i, l := range leases {
		rows[i] = []string{
			fmt.Sprint(l.ID), file(l.Path, uint64(l.File)), ranges(l.Ranges), l.Access.String(), leaseMode(l), leaseState(l), holders(l), fmt.Sprint(l.Pins),
		}
	}
	table(w, []string{"LEASE", "FILE", "RANGE", "ACCESS", "MODE", "STATE", "PROCESS", "PINS"}, rows)
}

func printPins(w io.Writer, pins []arbiter.PinInfo) {
	if len(pins) == 0 {
		fmt.Fprintln(w, "no pins")
		return
	}
	rows := make([][]string, len(pins))
	for i, p := range pins {
		proc := process(p.PID, p.Program)
		switch {
		case p.Unclaimed:
			proc += " (unclaimed)"
		case p.Unattended:
			proc += " (gone)"
		}
		rows[i] = []string{
			fmt.Sprint(p.ID), file(p.Path, uint64(p.File)), p.Range.String(), p.Access.String(), contextName(p.ContextKind, p.ContextName), proc, fmt.Sprint(p.Lease),
		}
	}
	table(w, []string{"PIN", "FILE", "RANGE", "ACCESS", "CONTEXT", "PROCESS", "LEASE"}, rows)
}

func printBlockers(w io.Writer, blockers []arbiter.Blocker) {
	rows := make([][]string, len(blockers))
	for i, b := range blockers {
		access := b.Access.String()
		if b.Change != 0 {
			access = "-"
		}
		rows[i] = []string{holdName(b), b.Range.String(), access, contextName(b.ContextKind, b.ContextName), process(b.PID, b.Program), b.Reason}
	}
	table(w, []string{"HOLD", "RANGE", "ACCESS", "CONTEXT", "PROCESS", "WHY"}, rows)
}

func holdName(b arbiter.Blocker) string {
	switch {
	case b.Pin != 0:
		return fmt.Sprintf("pin %d", b.Pin)
	case b.Lease != 0:
		return fmt.Sprintf("lease %d", b.Lease)
	}
	return fmt.Sprintf("change %d", b.Change)
}

// holders names all who hold a lease.
func holders(l arbiter.LeaseInfo) string {
	if len(l.Holders) == 0 {
		return process(l.PID, l.Program)
	}
	all := make([]string, len(l.Holders))
	for i, h := range l.Holders {
		all[i] = process(h.PID, h.Program)
	}
	return strings.Join(all, ", ")
}

func leaseMode(l arbiter.LeaseInfo) string {
	if l.Unbreakable {
		return l.Mode.String() + ",unbreakable"
	}
	return l.Mode.String()
}

func leaseState(l arbiter.LeaseInfo) string {
	s := l.State.String()
	switch {
	case l.Unclaimed:
		s += ",unclaimed"
	case l.Unattended:
		s += ",unattended"
	case l.Closed:
		s += ",closed"
	}
	if l.Unentitled {
		s += ",unentitled"
	}
	return s
}

func file(path string, ino uint64) string {
	if path == "" {
		return fmt.Sprintf("inode %d", ino)
	}
	return path
}

func ranges(rs []arbiter.Range) string {
	s := make([]string, len(rs))
	for i, r := range rs {
		s[i] = r.String()
	}
	return strings.Join(s, " ")
}

func process(pid int32, program string) string {
	switch {
	case pid == 0:
		return "-"
	case program == "":
		return fmt.Sprint(pid)
	}
	return fmt.Sprintf("%d %s", pid, program)
}

func contextName(kind, name string) string {
	switch {
	case kind == "":
		return "-"
	case name == "" || name == kind:
		return kind
	}
	return kind + " " + name
}
