package server

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
)

// TestPinningIsTried: the log says what came of it.
func TestPinningIsTried(t *testing.T) {
	for want, probe := range map[string]func() error{
		"can be pinned for long": func() error { return nil },
		"cannot be tried here":   func() error { return fmt.Errorf("no rings: %w", errors.ErrUnsupported) },
		"cannot be pinned":       func() error { return errors.New("register: cannot allocate memory") },
	} {
		var log bytes.Buffer
		s := &server{log: newLogger(Config{Log: &log})}
		s.tryPinning(probe)
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log says %q, want %q", log.String(), want)
		}
	}
}
