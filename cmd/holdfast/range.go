package main

import (
	"fmt"
	"strings"

	"holdfast/client"
	"holdfast/extent"
)

// byteRange is a flag of the form OFFSET+LENGTH; without LENGTH it reaches to
// infinity.
type byteRange client.Range

func (r *byteRange) Set(text string) error {
	off, length, ok := strings.Cut(text, "+")
	if !ok {
		return fmt.Errorf("%q is not OFFSET+LENGTH, for example 0+4096, 1M+64K, or 4096+ for all that follows", text)
	}
	var o, n byteSize
	if err := o.Set(off); err != nil {
		return err
	}
	wire := ^uint64(0) // to infinity
	if length != "" {
		if err := n.Set(length); err != nil {
			return err
		}
		wire = uint64(n)
	}
	got, err := extent.NewRange(uint64(o), wire)
	if err != nil {
		return err
	}
	*r = byteRange(got)
	return nil
}

func (r *byteRange) Type() string   { return "OFFSET+LENGTH" }
func (r *byteRange) String() string { return "" }
