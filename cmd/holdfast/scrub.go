package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"holdfast/client"
	"holdfast/fs"
)

func newScrub() *cobra.Command {
	var a asking
	var rate byteSize
	cmd := &cobra.Command{
		Use:   "scrub DIR",
		Short: "Look for damage in a volume while it is being served",
		Long: `Look at all metadata, and read all content, of the volume in DIR or mounted there,
which stays in use, and print what is damaged: the file, and where in it. Content
is compared with its checksums if the volume has them (serve --data-checksums).
Nothing is changed.

It takes root, or the user that the server runs as. The exit status is fsck's: 0
nothing wrong, 4 damage found, 8 the scrub could not be done, 16 wrong usage.`,
		Annotations: map[string]string{usageMark: fmt.Sprint(exitBadUsage)},
		Args:        cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			damaged, err := scrub(cmd.Context(), &a, args[0], int64(rate), cmd.OutOrStdout())
			if errors.Is(err, syscall.EPERM) {
				err = fmt.Errorf("%w; ask root, or the user that the server runs as", err)
			}
			if err != nil {
				return &exitError{exitNotDone, err}
			}
			if damaged {
				return &exitError{exitProblems, nil}
			}
			return nil
		},
	}
	a.flags(cmd)
	cmd.Flags().Var(&rate, "rate", "bytes to read in a second, at most, for example 50M (default no limit)")
	return cmd
}

// scrubStep is how much is read before the next look at rate and context.
const scrubStep = 16 << 20

func scrub(ctx context.Context, a *asking, dir string, rate int64, out io.Writer) (damaged bool, err error) {
	s, err := a.dialVolume(ctx, dir)
	if err != nil {
		return false, err
	}
	defer s.Close()
	var sum scrubSum
	began := time.Now()
	for next, more := []byte(nil), true; more; more = next != nil {
		var step fs.ScrubStep
		if step, err = scrubOnce(ctx, s, next, min(scrubStep, cmp.Or(rate, scrubStep))); err != nil {
			return false, err
		}
		sum.add(&step)
		for _, d := range step.Damage {
			a.show(out, finding(d))
		}
		next = step.Next
		if err := pace(ctx, began, sum.Verified+sum.Unsummed, rate); err != nil {
			return false, err
		}
	}
	a.show(out, &sum)
	return sum.Damage > 0, nil
}

func scrubOnce(ctx context.Context, s *client.Session, next []byte, bytes int64) (step fs.ScrubStep, err error) {
	raw, err := s.Scrub(ctx, next, bytes)
	if err == nil {
		err = json.Unmarshal(raw, &step)
	}
	return step, err
}

// pace waits until so many bytes may have been read since the beginning.
func pace(ctx context.Context, began time.Time, bytes, rate int64) error {
	if rate == 0 {
		return ctx.Err()
	}
	wait := time.NewTimer(time.Duration(float64(bytes)/float64(rate)*float64(time.Second)) - time.Since(began))
	defer wait.Stop()
	select {
	case <-wait.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// show prints a part of a result, an object of JSON or a line for people.
func (a *asking) show(w io.Writer, v any) {
	if a.json {
		json.NewEncoder(w).Encode(v)
		return
	}
	fmt.Fprintln(w, v)
}

type finding fs.Damage

func (d finding) String() string {
	if d.Inode == 0 {
		return fmt.Sprintf("%s: %s", d.Kind, d.Detail)
	}
	return fmt.Sprintf("%s: %s: inode %d, %d bytes at %d: %s", d.Kind, d.Path, d.Inode, d.Length, d.Offset, d.Detail)
}

// scrubSum is a scrub as a whole.
type scrubSum struct {
	Damage        int   `json:"damage"`
	Records       int64 `json:"records"`
	Files         int64 `json:"files"`
	Verified      int64 `json:"verified"`
	Unsummed      int64 `json:"unsummed"`
	DataChecksums bool  `json:"data_checksums"`
}

func (s *scrubSum) add(step *fs.ScrubStep) {
	s.Damage += len(step.Damage)
	s.Records += step.Records
	s.Files += step.Files
	s.Verified += step.Verified
	s.Unsummed += step.Unsummed
	s.DataChecksums = step.DataChecksums
}

func (s *scrubSum) String() string {
	verdict := "clean"
	if s.Damage > 0 {
		verdict = fmt.Sprintf("%d damaged places", s.Damage)
	}
	line := fmt.Sprintf("%s: %d records of metadata, %d files; ", verdict, s.Records, s.Files)
	if !s.DataChecksums {
		return line + fmt.Sprintf("%d bytes could be read, but only metadata verified: the volume has no checksums of data", s.Unsummed)
	}
	return line + fmt.Sprintf("%d bytes match their checksums, %d have none", s.Verified, s.Unsummed)
}
