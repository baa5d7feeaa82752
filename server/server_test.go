package server_test

import (
	"bufio"
	"bytes"
	"errors"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/internal/mountinfo"
	"holdfast/internal/testserver"
	"holdfast/server"
	"holdfast/store"
	"holdfast/volume"
)

func TestMain(m *testing.M) { testserver.Main(m) }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wantNothingLeft checks that a server that ended cleanly left its volume and
// nothing else.
func wantNothingLeft(t *testing.T, s *testserver.Server) {
	t.Helper()
	if m, ok, err := mountinfo.At(s.Mount); err != nil || ok {
		t.Errorf("a mount is left: %+v %v", m, err)
	}
	if _, err := os.Lstat(s.Socket); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is left: %v", err)
	}
	entries, err := os.ReadDir(s.Config.Dir)
	must(t, err)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if want := []string{"device", "meta"}; !slices.Equal(names, want) {
		t.Errorf("the directory holds %v, want %v", names, want)
	}
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{byte(n)}).Read(b)
	return b
}

func writeSynced(t *testing.T, path string, data []byte) {
	t.Helper()
	f, err := os.Create(path)
	must(t, err)
	defer f.Close()
	_, err = f.Write(data)
	must(t, err)
	must(t, f.Sync())
}

func wantFile(t *testing.T, path string, want []byte) {
	t.Helper()
	got, err := os.ReadFile(path)
	must(t, err)
	if !bytes.Equal(got, want) {
		t.Errorf("%s: %d bytes that differ from the %d written", path, len(got), len(want))
	}
}

// TestTerminate: SIGTERM makes everything durable, synced or not, and leaves
// neither mount nor socket.
func TestTerminate(t *testing.T) {
	s := testserver.Mounted(t)
	data := randomBytes(3<<20 + 17)
	must(t, os.WriteFile(s.Mount+"/file", data, 0o644))
	must(t, os.MkdirAll(s.Mount+"/a/b", 0o755))
	s.Stop()
	wantNothingLeft(t, s)

	s = s.Restart()
	wantFile(t, s.Mount+"/file", data)
	if _, err := os.Stat(s.Mount + "/a/b"); err != nil {
		t.Error(err)
	}
	s.Stop()
	wantNothingLeft(t, s)
}

// TestTerminateInUse: a mount that somebody uses does not keep the server, nor
// does it stay. What was written to a mapping is not lost.
func TestTerminateInUse(t *testing.T) {
	s := testserver.Mounted(t)
	f, err := os.Create(s.Mount + "/file")
	must(t, err)
	defer f.Close()
	_, err = f.Write(make([]byte, 4096))
	must(t, err)
	m, err := unix.Mmap(int(f.Fd()), 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	must(t, err)
	defer unix.Munmap(m)
	copy(m, "by mapping")
	s.Stop()
	wantNothingLeft(t, s)
	if _, err := f.Write([]byte("x")); err == nil {
		t.Error("a write after the end of the server succeeded")
	}
	s = s.Restart()
	want := make([]byte, 4096)
	copy(want, "by mapping")
	wantFile(t, s.Mount+"/file", want)
}

// TestKill: after SIGKILL the next start recovers mount and socket, and what was
// synced is there.
func TestKill(t *testing.T) {
	s := testserver.Mounted(t)
	data := randomBytes(2<<20 + 5)
	writeSynced(t, s.Mount+"/file", data)
	s.Kill()
	if _, err := os.Stat(s.Mount); !errors.Is(err, syscall.ENOTCONN) {
		t.Errorf("the mount of a killed server: %v, want ENOTCONN", err)
	}
	if _, err := os.Lstat(s.Socket); err != nil {
		t.Errorf("no socket is left to recover: %v", err)
	}
	for range 2 { // killed once, and again
		s = s.Restart()
		wantFile(t, s.Mount+"/file", data)
		conn, err := net.Dial("unixpacket", s.Socket)
		must(t, err)
		conn.Close()
		s.Kill()
	}
	s = s.Restart()
	wantFile(t, s.Mount+"/file", data)
	s.Stop()
	wantNothingLeft(t, s)
	check(t, s)
}

// check runs the consistency check on the volume of a server that has ended.
func check(t *testing.T, s *testserver.Server) {
	t.Helper()
	_, err := server.Check(t.Context(), s.Config, true, func(p volume.Problem) { t.Errorf("check: %v", p) })
	must(t, err)
}

// TestSecondServer: a second server on the same volume is refused with a reason,
// and the first notices nothing.
func TestSecondServer(t *testing.T) {
	s := testserver.Start(t)
	_, err := testserver.TryStart(t, testserver.With(func(c *server.Config) {
		c.Dir, c.Mount, c.Socket = s.Config.Dir, s.Config.Dir+"-2", s.Config.Dir+"-socket"
	}))
	if err == nil || !strings.Contains(err.Error(), "is being served already") {
		t.Fatalf("second server: %v, want it refused", err)
	}
	conn, err := net.Dial("unixpacket", s.Socket)
	must(t, err)
	conn.Close()
	if s.Mount != "" {
		must(t, os.WriteFile(s.Mount+"/file", nil, 0o644))
	}
	s.Stop()
}

// TestMountPointInUse: a server does not mount over what is another's, and does
// not take it away.
func TestMountPointInUse(t *testing.T) {
	s := testserver.Mounted(t)
	other := testserver.With(func(c *server.Config) { c.Mount = s.Mount })
	if _, err := testserver.TryStart(t, other); err == nil || !strings.Contains(err.Error(), "the mount point is in use") {
		t.Fatalf("mount over the mount of a living server: %v, want it refused", err)
	}
	// A server that does not answer is alive all the same.
	must(t, syscall.Kill(s.PID(), syscall.SIGSTOP))
	_, err := testserver.TryStart(t, other)
	must(t, syscall.Kill(s.PID(), syscall.SIGCONT))
	if err == nil || !strings.Contains(err.Error(), "does not answer") {
		t.Fatalf("mount over the mount of a stopped server: %v, want it refused", err)
	}
	must(t, os.WriteFile(s.Mount+"/file", nil, 0o644))
}

// TestOrdinaryUser: without root the mount goes through fusermount3.
func TestOrdinaryUser(t *testing.T) {
	s := testserver.Mounted(t, asOrdinaryUser(t)...)
	m, ok, err := mountinfo.At(s.Mount)
	if err != nil || !ok || m.FSType != mountinfo.FSType {
		t.Fatalf("mount: %+v, %v, %v", m, ok, err)
	}
	script := userCommand("sh", "-c", `cd "$0" && echo hello > file && mkdir d && mv file d && cat d/file`, s.Mount)
	if out, err := script.CombinedOutput(); err != nil || string(out) != "hello\n" {
		t.Errorf("%v: %s", err, out)
	}
	s.Kill()
	s = s.Restart()
	s.Stop()
	wantNothingLeft(t, s)
}

const nobody = 65534

// asOrdinaryUser returns the options for a server of an ordinary user, who is the
// test's own unless that is root.
func asOrdinaryUser(t *testing.T) []testserver.Option {
	t.Helper()
	if _, err := exec.LookPath("fusermount3"); err != nil {
		t.Skip("needs fusermount3 (apt-get install fuse3)")
	}
	if os.Geteuid() != 0 {
		return nil
	}
	// Where udev runs everyone may open /dev/fuse, as fusermount3 does for its user.
	st, err := os.Stat("/dev/fuse")
	must(t, err)
	must(t, os.Chmod("/dev/fuse", 0o666))
	t.Cleanup(func() { os.Chmod("/dev/fuse", st.Mode().Perm()) })
	dir, err := os.MkdirTemp("", "holdfast-user-")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	must(t, os.Chown(dir, nobody, nobody))
	return []testserver.Option{
		testserver.AsUser(nobody, nobody),
		testserver.With(func(c *server.Config) { c.Dir = dir + "/volume" }),
	}
}

// userCommand is a command of the user of asOrdinaryUser.
func userCommand(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Dir = "/"
	if os.Geteuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	}
	return cmd
}

// TestOrdinaryUserInUse: a mount of an ordinary user that is in use is detached at
// SIGTERM: it leaves the list of mounts, what was written is durable, and its
// users get ENOTCONN, with or without the control filesystem.
func TestOrdinaryUserInUse(t *testing.T) {
	s := testserver.Mounted(t, asOrdinaryUser(t)...)
	user := userCommand("sh", "-c", `cd "$0" && exec 3> file && echo before >&3 && echo ready && read x && echo after >&3`, s.Mount)
	in, err := user.StdinPipe()
	must(t, err)
	out, err := user.StdoutPipe()
	must(t, err)
	var said bytes.Buffer
	user.Stderr = &said
	must(t, user.Start())
	defer func() { in.Close(); user.Wait() }()
	_, err = bufio.NewReader(out).ReadString('\n')
	must(t, err)

	begin := time.Now()
	s.Stop()
	if d := time.Since(begin); d > 15*time.Second {
		t.Errorf("the end took %v", d)
	}
	wantNothingLeft(t, s)
	if log := s.Log(); !strings.Contains(log, "still in use") {
		t.Errorf("the log does not say that the mount was in use:\n%s", log)
	}
	in.Write([]byte("go on\n"))
	if err := user.Wait(); err == nil {
		t.Errorf("a write after the end of the server succeeded: %s", said.String())
	}
	check(t, s)
	s = s.Restart()
	cat := userCommand("cat", s.Mount+"/file")
	if got, err := cat.CombinedOutput(); err != nil || string(got) != "before\n" {
		t.Errorf("%v: %q", err, got)
	}
}

// TestWithoutFUSE: where nothing can be mounted the socket is served, and one
// line says why and what to do.
func TestWithoutFUSE(t *testing.T) {
	testserver.NeedRoot(t)
	s := testserver.Start(t, testserver.InNamespace("mount -t tmpfs none /dev"))
	if s.Mount != "" {
		t.Fatalf("mounted at %s without /dev/fuse", s.Mount)
	}
	conn, err := net.Dial("unixpacket", s.Socket)
	must(t, err)
	conn.Close()
	s.Stop() // before that, some of the log may still be on its way
	var lines []string
	for _, l := range strings.Split(s.Log(), "\n") {
		if strings.Contains(l, "no mount") {
			lines = append(lines, l)
		}
	}
	if len(lines) != 1 || !strings.Contains(lines[0], "/dev/fuse") || !strings.Contains(lines[0], "modprobe fuse") {
		t.Errorf("the log says %q, want one line with reason and remedy", lines)
	}
}

// TestStartTriesPinning: each start tries whether pages of windows can be pinned, whatever comes of it here.
func TestStartTriesPinning(t *testing.T) {
	s := testserver.Start(t, testserver.With(func(c *server.Config) { c.NoMount = true }))
	s.WaitLog("pinned for long")
	s.Stop()
}

// TestUnmountedByOthers: when somebody takes the mount away, the server ends.
func TestUnmountedByOthers(t *testing.T) {
	testserver.NeedRoot(t)
	s := testserver.Mounted(t)
	must(t, unix.Unmount(s.Mount, 0))
	select {
	case <-s.Done():
	case <-time.After(20 * time.Second):
		t.Fatal("the server goes on")
	}
	wantNothingLeft(t, s)
}

// TestInterruptedCreation: a server killed while it makes a volume leaves what
// the next one can begin anew with.
func TestInterruptedCreation(t *testing.T) {
	for name, leave := range map[string]func(dir string) error{
		"device":          func(dir string) error { return os.WriteFile(dir+"/device", make([]byte, 64<<20), 0o600) },
		"empty directory": func(dir string) error { return os.Mkdir(dir+"/meta", 0o700) },
		"store without a volume": func(dir string) error {
			st, err := store.Create(dir+"/meta", store.Options{})
			if err != nil {
				return err
			}
			return st.Close()
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			must(t, os.WriteFile(dir+"/device", make([]byte, 64<<20), 0o600))
			must(t, leave(dir))
			s := testserver.Start(t, testserver.With(func(c *server.Config) { c.Dir, c.NoMount = dir, true }))
			s.Stop()
			check(t, s)
		})
	}
}

// TestForeignDevice: nothing that holds data is overwritten or altered.
func TestForeignDevice(t *testing.T) {
	dir := t.TempDir()
	precious, data := filepath.Join(dir, "precious"), randomBytes(64<<20)
	must(t, os.WriteFile(precious, data, 0o600))
	another := testserver.Start(t, testserver.With(func(c *server.Config) { c.NoMount = true }))
	another.Stop()
	for name, dir := range map[string]string{"no metadata": filepath.Join(dir, "new"), "metadata of another": another.Config.Dir} {
		_, err := testserver.TryStart(t, testserver.With(func(c *server.Config) { c.Dir, c.Device, c.NoMount = dir, precious, true }))
		if err == nil {
			t.Errorf("%s: a volume is served from a device with other data", name)
		} else if !strings.Contains(err.Error(), "wipe it first") && !strings.Contains(err.Error(), "not a Holdfast volume") {
			t.Errorf("%s: %v; want a reason", name, err)
		}
	}
	wantFile(t, precious, data)
	another.Restart().Stop()
}

// TestDeviceLost: a volume whose device is missing is not silently made anew.
func TestDeviceLost(t *testing.T) {
	s := testserver.Start(t)
	s.Stop()
	must(t, os.Rename(s.Config.Dir+"/device", s.Config.Dir+"/elsewhere"))
	same := testserver.With(func(c *server.Config) { *c = s.Config })
	if _, err := testserver.TryStart(t, same); err == nil || !strings.Contains(err.Error(), "--device") {
		t.Errorf("without its device: %v, want a hint at --device", err)
	}
	if _, err := os.Stat(s.Config.Dir + "/device"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a new device was made in its place: %v", err)
	}
	testserver.Start(t, same, testserver.With(func(c *server.Config) { c.Device = s.Config.Dir + "/elsewhere" })).Stop()
}

// TestDeviceWiped: metadata without the volume it is of is neither served nor altered.
func TestDeviceWiped(t *testing.T) {
	s := testserver.Start(t)
	s.Stop()
	must(t, os.Truncate(s.Config.Dir+"/device", 0))
	must(t, os.Truncate(s.Config.Dir+"/device", s.Config.Size))
	before, err := os.ReadDir(s.Config.Dir + "/meta")
	must(t, err)
	_, err = testserver.TryStart(t, testserver.With(func(c *server.Config) { *c = s.Config }))
	if err == nil || !strings.Contains(err.Error(), "device is blank") || !strings.Contains(err.Error(), "--device") {
		t.Errorf("with a blank device: %v, want that it is blank and a hint at --device", err)
	}
	after, err := os.ReadDir(s.Config.Dir + "/meta")
	must(t, err)
	if len(before) != len(after) || before[0].Name() != after[0].Name() {
		t.Errorf("the metadata was touched: %v, before %v", after, before)
	}
}

// TestDeviceFails: after an I/O error of the device the volume is read-only, and
// the log says so once. The device lies on a mount of another server, whose death
// is the error.
func TestDeviceFails(t *testing.T) {
	below := testserver.Mounted(t)
	s := testserver.Mounted(t, testserver.With(func(c *server.Config) {
		c.Device, c.Size = below.Mount+"/device", 256<<20
	}))
	data := randomBytes(1 << 20)
	writeSynced(t, s.Mount+"/file", data)
	below.Kill()
	f, err := os.OpenFile(s.Mount+"/file", os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	_, err = f.WriteAt(data, 0)
	if err == nil {
		err = f.Sync()
	}
	if !errors.Is(err, syscall.EIO) && !errors.Is(err, syscall.EROFS) {
		t.Errorf("write to a dead device: %v, want EIO", err)
	}
	if err := os.WriteFile(s.Mount+"/new", nil, 0o644); !errors.Is(err, syscall.EROFS) {
		t.Errorf("create after the failure: %v, want EROFS", err)
	}
	if _, err := os.Stat(s.Mount + "/file"); err != nil {
		t.Errorf("names cannot be read any more: %v", err)
	}
	s.WaitLog("volume is read-only from now on")
	s.Kill() // a clean end cannot be had
	if n := strings.Count(s.Log(), "volume is read-only from now on"); n != 1 {
		t.Errorf("said %d times, want once", n)
	}
}
