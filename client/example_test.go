package client_test

import (
	"context"
	"fmt"
	"log"
	"os"

	"holdfast/client"
)

// A program maps the pages of a file, registers them with its device, and lets go when
// it is asked to.
func ExampleSession() {
	ctx := context.Background()
	f, err := os.OpenFile("/mnt/holdfast/ring", os.O_RDWR, 0)
	if err != nil {
		log.Fatal(err)
	}
	defer f.Close()
	s, err := client.ForFile(ctx, f)
	if err != nil {
		log.Fatal(err)
	}
	defer s.Close()

	whole := client.Range{Off: 0, End: 1 << 20}
	lease, err := s.Lease(ctx, f, whole, client.Options{Access: client.Write, Prepare: true})
	if err != nil {
		log.Fatal(err)
	}
	memory, err := lease.Map(ctx)
	if err != nil {
		log.Fatal(err)
	}
	copy(memory.Bytes(), "stored without a system call")
	if err := lease.Commit(ctx, whole, 1<<20); err != nil {
		log.Fatal(err)
	}

	for ev := range lease.Events() {
		fmt.Println("wanted back:", ev.Range, "until", ev.Deadline)
		// Stop using the range, then:
		if err := memory.Close(); err != nil {
			log.Fatal(err)
		}
		if err := lease.Release(ctx); err != nil {
			log.Fatal(err)
		}
	}
}

// Who gives the memory to a device for long says so with a pin. The lease is then
// unbreakable in effect, and owned by the context as well.
func ExampleContext_Pin() {
	pinFor := func(ctx context.Context, s *client.Session, lease *client.Lease, xsk *os.File) error {
		device, err := s.Register(ctx, client.XDP, xsk)
		if err != nil {
			return err
		}
		defer device.Close()
		pin, err := device.Pin(ctx, lease, lease.Granted().Range, client.Write)
		if err != nil {
			return err
		}
		// Register the mapping as the socket's umem, use it, close the socket, then:
		return pin.Unpin(ctx)
	}
	_ = pinFor
}
