package server

import (
	"bytes"
	"log/slog"
	"os"
)

// bootID names the boot of this machine; it is empty where the kernel does not tell.
func bootID(log *slog.Logger) string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		log.Warn("which boot this is cannot be told: orphaned blocks of a former one are kept", "err", err)
	}
	return string(bytes.TrimSpace(b))
}
