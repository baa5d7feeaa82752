// Package posixmodel is a filesystem in memory, as plain as can be, that says what a
// real one must answer: to each operation its errno and its result. It is held against
// real mounts, operation by operation.
//
// Model.Do does an Op in memory; Process.Do does the same Op by system calls in a
// directory; Want.Check compares. Gen makes operations at random that depend on
// its seed and the model only, never on what the real side answers, so that a failure
// comes back from its seed.
//
// Where systems may differ, Rules say what the one at hand does. Where a result is not
// determined (which blocks a copied range has, say), the model says so and nothing is compared.
//
// The caller has one operation at a time done in one model: there are no locks. The
// package knows system calls and nothing of Holdfast but the rules of leases.
package posixmodel

import (
	"fmt"
	"hash/crc32"
	"strings"
	"syscall"
)

// BlockSize is the unit in which space is allocated.
const BlockSize = 4096

// Slots is how many descriptors a process can have open.
const Slots = 6

// Kind says what an operation does.
type Kind string

// The operations, by the names of their system calls where there is one.
const (
	Open        Kind = "open"
	Tmpfile     Kind = "tmpfile"
	Close       Kind = "close"
	Read        Kind = "read"
	Pread       Kind = "pread"
	Write       Kind = "write"
	Pwrite      Kind = "pwrite"
	Ftruncate   Kind = "ftruncate"
	Truncate    Kind = "truncate"
	Fallocate   Kind = "fallocate"
	Lseek       Kind = "lseek"
	Fsync       Kind = "fsync"
	Fdatasync   Kind = "fdatasync"
	Fstat       Kind = "fstat"
	CopyRange   Kind = "copy_file_range"
	MmapLoad    Kind = "mmap-load"
	MmapStore   Kind = "mmap-store"
	Getdents    Kind = "getdents"
	Lstat       Kind = "lstat"
	Stat        Kind = "stat"
	Mkdir       Kind = "mkdir"
	Rmdir       Kind = "rmdir"
	Unlink      Kind = "unlink"
	Rename      Kind = "rename"
	Link        Kind = "link"
	LinkFD      Kind = "linkfd"
	Symlink     Kind = "symlink"
	Readlink    Kind = "readlink"
	Chmod       Kind = "chmod"
	Chown       Kind = "chown"
	Utimens     Kind = "utimens"
	Setxattr    Kind = "setxattr"
	Getxattr    Kind = "getxattr"
	Removexattr Kind = "removexattr"
	Listxattr   Kind = "listxattr"
	Statfs      Kind = "statfs"
	// Lease takes a lease, and with it a mapping; these are for Holdfast only.
	Lease       Kind = "lease"
	LeaseDrop   Kind = "lease-drop"
	LeaseLoad   Kind = "lease-load"
	LeaseStore  Kind = "lease-store"
	LeaseCommit Kind = "lease-commit"
	APITruncate Kind = "api-truncate"
	APIPunch    Kind = "api-punch"
	// APIReshape is fallocate in the modes that the kernel does not pass to a mount.
	APIReshape Kind = "api-reshape"
)

// Op is an operation. Each kind uses the fields it needs.
type Op struct {
	Seq         int `json:",omitempty"` // counts from 1
	Proc        int `json:",omitempty"`
	Kind        Kind
	Dir         int    `json:",omitempty"` // 0: paths begin at the root; else at the directory in slot Dir-1
	Path, Path2 string `json:",omitempty"`
	FD, FD2     int    `json:",omitempty"` // slots
	Off, Off2   int64  `json:",omitempty"`
	Len         int64  `json:",omitempty"`
	Flags       int    `json:",omitempty"`
	Mode        uint32 `json:",omitempty"`
	UID, GID    int    `json:",omitempty"`
	Name        string `json:",omitempty"` // of an extended attribute
	Atime       int64  `json:",omitempty"` // nanoseconds
	Mtime       int64  `json:",omitempty"`
	Lease       int    `json:",omitempty"` // number of a lease, unique in a model
	LeaseFlags  int    `json:",omitempty"`
	Again       bool   `json:",omitempty"` // EAGAIN means that holders were slow: try again
}

// String shows the operation with the fields that are set.
func (o Op) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "#%d p%d %s", o.Seq, o.Proc, o.Kind)
	show := func(name string, set bool, v any) {
		if set {
			fmt.Fprintf(&b, " %s=%v", name, v)
		}
	}
	show("at", o.Dir != 0, o.Dir-1)
	show("path", o.Path != "", o.Path)
	show("path2", o.Path2 != "", o.Path2)
	show("fd", o.usesFD(), o.FD)
	show("fd2", o.Kind == CopyRange, o.FD2)
	show("off", o.Off != 0, o.Off)
	show("off2", o.Off2 != 0, o.Off2)
	show("len", o.Len != 0, o.Len)
	show("flags", o.Flags != 0, fmt.Sprintf("%#x", o.Flags))
	show("mode", o.Mode != 0, fmt.Sprintf("%#o", o.Mode))
	show("uid", o.UID != 0, o.UID)
	show("gid", o.GID != 0, o.GID)
	show("name", o.Name != "", o.Name)
	show("atime", o.Atime != 0, o.Atime)
	show("mtime", o.Mtime != 0, o.Mtime)
	show("lease", o.Lease != 0, o.Lease)
	show("leaseflags", o.LeaseFlags != 0, o.LeaseFlags)
	return strings.ReplaceAll(b.String(), strings.Repeat("n", 200), "(n x 200)")
}

// usesFD reports whether the operation goes by the descriptor in slot FD.
func (o Op) usesFD() bool {
	switch o.Kind {
	case Open, Tmpfile, Close, Read, Pread, Write, Pwrite, Ftruncate, Fallocate, Lseek, Fsync, Fdatasync, Fstat, CopyRange,
		MmapLoad, MmapStore, Getdents, LinkFD:
		return true
	}
	return false
}

// Result is what an operation answers.
type Result struct {
	Errno syscall.Errno `json:",omitempty"`
	N     int64         `json:",omitempty"`
	Sum   uint32        `json:",omitempty"` // of the bytes that were read
	Text  string        `json:",omitempty"`
	Stat  *Attr         `json:",omitempty"`
}

// Attr is what stat(2) shows.
type Attr struct {
	Ino             uint64
	Mode, UID, GID  uint32
	Nlink           int
	Size, Blocks512 int64
	Atime           int64 // nanoseconds
	Mtime, Ctime    int64
}

func (r Result) String() string {
	s := fmt.Sprintf("errno=%d n=%d sum=%#x", int(r.Errno), r.N, r.Sum)
	if r.Errno != 0 {
		s = r.Errno.Error()
	}
	if r.Text != "" {
		s += fmt.Sprintf(" %.300q", r.Text)
	}
	if r.Stat != nil {
		s += fmt.Sprintf(" %+v", *r.Stat)
	}
	return s
}

// Data returns the bytes that operation seq writes: no two operations the same.
func Data(seq int, n int64) []byte {
	b := make([]byte, (n+7)&^7)
	x := uint64(seq) * 0x9e3779b97f4a7c15
	for i := 0; i < len(b); i += 8 {
		x += 0x9e3779b97f4a7c15
		z := (x ^ x>>30) * 0xbf58476d1ce4e5b9
		z ^= z >> 27
		for k := range 8 {
			b[i+k] = byte(z >> (8 * k))
		}
	}
	return b[:n]
}

// Sum returns the sum of what was read.
func Sum(b []byte) uint32 { return crc32.ChecksumIEEE(b) }
