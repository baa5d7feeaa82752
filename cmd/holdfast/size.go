package main

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// byteSize is a flag for a number of bytes with a unit as truncate(1) has them:
// K, KiB, M, … are powers of 1024; KB, MB, … powers of 1000.
type byteSize int64

func (s *byteSize) Set(text string) error {
	digits := strings.TrimRight(text, "KMGTPiB")
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n < 0 {
		return fmt.Errorf("%q is not a size such as 10G, 512MiB or 4096", text)
	}
	unit, power := int64(1024), 0
	switch suffix := text[len(digits):]; {
	case suffix == "":
	default:
		power = 1 + strings.IndexByte("KMGTP", suffix[0])
		switch suffix[1:] {
		case "", "iB":
		case "B":
			unit = 1000
		default:
			power = 0
		}
		if power == 0 {
			return fmt.Errorf("%q is not a unit; use K, M, G, T or P", suffix)
		}
	}
	for range power {
		if n > math.MaxInt64/unit {
			return fmt.Errorf("%s is too large", text)
		}
		n *= unit
	}
	*s = byteSize(n)
	return nil
}

func (s *byteSize) Type() string { return "SIZE" }

// String prints the size in the largest unit that loses nothing.
func (s *byteSize) String() string {
	n, unit := int64(*s), ""
	if n == 0 {
		return ""
	}
	for _, u := range []string{"KiB", "MiB", "GiB", "TiB", "PiB"} {
		if n%1024 != 0 {
			break
		}
		n, unit = n/1024, u
	}
	return strconv.FormatInt(n, 10) + unit
}
