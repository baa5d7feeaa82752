package main

import (
	"encoding"
	"fmt"
)

// policyFlag is a flag whose values have names.
type policyFlag[P interface {
	encoding.TextUnmarshaler
	fmt.Stringer
}] struct{ policy P }

func (p policyFlag[P]) Set(text string) error { return p.policy.UnmarshalText([]byte(text)) }
func (p policyFlag[P]) Type() string          { return "POLICY" }
func (p policyFlag[P]) String() string        { return p.policy.String() }
