package main

import (
	"errors"
	"fmt"
	"io"
	"os/user"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"holdfast/arbiter"
)

func newLimits() *cobra.Command {
	var a asking
	cmd := &cobra.Command{
		Use:   "limits",
		Short: "Show what each user has used up, and his limits",
		Long: `Show what you have used up of your limits; to root, and the user that the server
runs as, what each user has. Limits are set with holdfast serve --limit.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := a.dial(cmd.Context(), nil)
			if err != nil {
				return err
			}
			defer s.Close()
			raw, err := s.Limits(cmd.Context())
			if err != nil {
				return err
			}
			return show(&a, cmd.OutOrStdout(), raw, printLimits)
		},
	}
	a.flags(cmd)
	return cmd
}

func printLimits(w io.Writer, uses []arbiter.LimitUse) {
	rows := make([][]string, len(uses))
	for i, u := range uses {
		limit := "none"
		if u.Max != nil {
			limit = fmt.Sprint(*u.Max)
		}
		rows[i] = []string{loginName(u.User), u.Limit.String(), fmt.Sprint(u.Used), limit}
	}
	table(w, []string{"USER", "OF", "USED", "LIMIT"}, rows)
}

// loginName is the name of a user, or his number.
func loginName(uid uint32) string {
	id := strconv.FormatUint(uint64(uid), 10)
	if u, err := user.LookupId(id); err == nil {
		return u.Username
	}
	return id
}

// limitFlag is a flag NAME[@USER]=VALUE that may be given several times.
type limitFlag struct{ limits *arbiter.Limits }

func (f limitFlag) Set(text string) error {
	what, value, _ := strings.Cut(text, "=")
	name, who, named := strings.Cut(what, "@")
	key := arbiter.UserLimit{User: arbiter.Everyone}
	if err := key.Limit.UnmarshalText([]byte(name)); err != nil || key.Limit == arbiter.LimitOrphaned {
		return fmt.Errorf("%q is no limit of users: say pins, leases, unbreakable, sessions or windows", name)
	}
	if named {
		uid, err := userID(who)
		if err != nil {
			return err
		}
		key.User = uid
	}
	n, err := limitValue(key.Limit, value)
	if err != nil {
		return err
	}
	if *f.limits == nil {
		*f.limits = arbiter.Limits{}
	}
	(*f.limits)[key] = n
	return nil
}

func limitValue(l arbiter.Limit, text string) (int64, error) {
	if text == "none" {
		return arbiter.Unlimited, nil
	}
	var n byteSize
	if err := n.Set(text); err != nil || !l.Bytes() && strings.Trim(text, "0123456789") != "" {
		return 0, fmt.Errorf("%q is no value of %v: say a number, or none", text, l)
	}
	return int64(n), nil
}

func userID(name string) (uint32, error) {
	u, err := user.Lookup(name)
	if err != nil {
		if n, err := strconv.ParseUint(name, 10, 32); err == nil && uint32(n) != arbiter.Everyone {
			return uint32(n), nil
		}
		return 0, errors.Join(fmt.Errorf("no user %q", name), err)
	}
	n, err := strconv.ParseUint(u.Uid, 10, 32)
	return uint32(n), err
}

func (f limitFlag) Type() string   { return "NAME[@USER]=VALUE" }
func (f limitFlag) String() string { return "" }
