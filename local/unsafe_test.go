package local_test

import "unsafe"

func addressOf(p *[120]byte) uintptr { return uintptr(unsafe.Pointer(p)) }
