package fuse

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"holdfast/extent"
	"holdfast/fs"
	"holdfast/internal/mountinfo"
)

// Options say where and how to mount.
type Options struct {
	// Path is the mount point. It is made if it is missing.
	Path string
	// Own says that Path is for this mount alone: Unmount removes it, so that who still writes there
	// afterwards is told, and does not fill the directory below.
	Own bool
	// Over lets the mount hide what is in the directory at Path. What is there when an Own path is mounted is
	// hidden in any case, or nothing would be served because of it.
	Over bool
	// Source is what the list of mounts shows as the device.
	Source string
	// Socket is the value of SocketXattr. Empty: files do not have it.
	Socket string
	// Direct asks for mount(2) instead of fusermount3. It needs CAP_SYS_ADMIN.
	Direct bool
	// AllowOther lets other users than the one who mounted use the mount.
	AllowOther bool
	// MaxFiles is how many files the kernel may know before it is asked to forget
	// some; 0 means 1,048,576.
	MaxFiles int
	// Log must not be nil.
	Log *slog.Logger
}

// UnavailableError says why this process cannot mount, and what would help.
type UnavailableError struct {
	Reason, Remedy string
}

// Error joins the two in a line.
func (e *UnavailableError) Error() string { return e.Reason + "; " + e.Remedy }

// ErrBusy means that something else is mounted at the mount point.
var ErrBusy = errors.New("the mount point is in use")

// Mount is a mounted filesystem. Unmount ends it.
type Mount struct {
	opts   Options
	path   string // Options.Path, absolute and free of symbolic links
	dev    uint64
	raw    *gated
	server *gofuse.Server
	inval  *invalidator
	prune  *pruner
	done   chan struct{} // closed when the kernel has let go of the mount
}

// New mounts fsys and starts to serve it. The context bounds the mounting only.
func New(ctx context.Context, fsys *fs.FS, opts Options) (*Mount, error) {
	if err := Available(opts.Direct); err != nil {
		return nil, err
	}
	path, err := preparePath(ctx, opts.Path, opts.Log)
	if err == nil {
		err = checkDir(path, opts)
	}
	if err != nil {
		return nil, err
	}
	m := &Mount{opts: opts, path: path, done: make(chan struct{}), inval: newInvalidator(), prune: newPruner(fsys, int64(opts.MaxFiles))}
	m.raw = &gated{rawFS: &rawFS{RawFileSystem: gofuse.NewDefaultRawFileSystem(), fs: fsys, log: opts.Log, socket: []byte(opts.Socket), prune: m.prune}}
	m.server, err = gofuse.NewServer(m.raw, path, m.mountOptions())
	if err != nil {
		return nil, mountError(path, err)
	}
	go func() {
		defer close(m.done)
		m.server.Serve()
	}()
	if err := m.server.WaitMount(); err != nil {
		return nil, errors.Join(fmt.Errorf("mount at %s: %w", path, err), m.Unmount(ctx))
	}
	// The number comes from the list of mounts: to ask the mount itself would be
	// a request to this very process.
	at, ok, err := mountinfo.At(path)
	if err != nil || !ok || at.FSType != mountinfo.FSType {
		return nil, errors.Join(fmt.Errorf("mount at %s: not in the list of mounts: %w", path, errors.Join(err, syscall.ENOENT)), m.Unmount(ctx))
	}
	m.dev = at.Dev
	m.inval.start(m.server)
	m.prune.start(m.server.PruneNotify)
	fsys.OnInvalidate(m.inval.invalidate)
	fsys.OnDrop(m.inval.drop)
	return m, nil
}

// Path returns the mount point.
func (m *Mount) Path() string { return m.path }

// Dev returns the st_dev of the files of the mount.
func (m *Mount) Dev() uint64 { return m.dev }

// Done is closed when the mount is gone, by Unmount or by someone else.
func (m *Mount) Done() <-chan struct{} { return m.done }

func (m *Mount) mountOptions() *gofuse.MountOptions {
	o := &gofuse.MountOptions{
		AllowOther: m.opts.AllowOther,
		// The kernel checks permissions: it knows groups and capabilities.
		Options:       []string{"default_permissions"},
		FsName:        m.opts.Source,
		Name:          "holdfast",
		MaxWrite:      maxWrite,
		MaxBackground: 64,
		// Replies are made of bytes, never of descriptors; with splicing on, the
		// library first tries a pipe for each of them.
		DisableSplice:     true,
		DirectMountStrict: m.opts.Direct,
		Logger:            slog.NewLogLogger(m.opts.Log.Handler(), slog.LevelWarn),
		PanicHandler: func(v any) gofuse.Status {
			m.opts.Log.Error("a request failed in the server: please report this", "panic", v, "stack", stack())
			return gofuse.EIO
		},
		ExtraCapabilities: gofuse.CAP_DIRECT_IO_ALLOW_MMAP |
			// Without it the kernel asks for security.capability before each write.
			gofuse.CAP_HANDLE_KILLPRIV_V2 |
			// The umask counts only where no default ACL does.
			gofuse.CAP_DONT_MASK | gofuse.CAP_SETXATTR_EXT,
		EnableAcl: true,
	}
	return o
}

// preparePath makes the mount point if it is missing, and returns it absolute and
// free of symbolic links. What a dead server left mounted there is taken away; a
// living mount is an error, and is not looked into before that is known.
func preparePath(ctx context.Context, path string, log *slog.Logger) (string, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(filepath.Dir(abs), 0o755); err != nil {
		return "", fmt.Errorf("mount point: %w", err)
	}
	dir, err := filepath.EvalSymlinks(filepath.Dir(abs))
	if err != nil {
		return "", fmt.Errorf("mount point: %w", err)
	}
	real := filepath.Join(dir, filepath.Base(abs))
	if err := RecoverStale(ctx, real, log); err != nil {
		return "", err
	}
	if err := os.MkdirAll(real, 0o755); err != nil {
		return "", fmt.Errorf("mount point: %w", err)
	}
	if real, err = filepath.EvalSymlinks(real); err != nil {
		return "", fmt.Errorf("mount point: %w", err)
	}
	return real, RecoverStale(ctx, real, log) // the last part may be a link to a mount
}

// CheckPath returns what would be in the way of a mount, as New would find
// it, without making anything. Like New, it takes away what a dead server left.
func CheckPath(ctx context.Context, opts Options) error {
	abs, err := filepath.Abs(opts.Path)
	if err != nil {
		return err
	}
	dir, err := filepath.EvalSymlinks(filepath.Dir(abs))
	if errors.Is(err, os.ErrNotExist) {
		return canMake(filepath.Dir(abs))
	}
	if err != nil {
		return fmt.Errorf("mount point: %w", err)
	}
	real := filepath.Join(dir, filepath.Base(abs))
	if err := RecoverStale(ctx, real, opts.Log); err != nil {
		return err
	}
	if real, err = filepath.EvalSymlinks(real); errors.Is(err, os.ErrNotExist) {
		return canMake(abs)
	} else if err != nil {
		return fmt.Errorf("mount point: %w", err)
	}
	if err := RecoverStale(ctx, real, opts.Log); err != nil {
		return err
	}
	return checkDir(real, opts)
}

// canMake reports whether the missing directory can be made.
func canMake(path string) error {
	for {
		path = filepath.Dir(path)
		if err := checkWritable(path); !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
}

// checkDir reports whether a mount may be made at path, which is there. fusermount3 demands that this process
// may write to it; mount(2) does not.
func checkDir(path string, opts Options) error {
	if !opts.Direct {
		if err := checkWritable(path); err != nil {
			return err
		}
	}
	there, err := someName(path)
	switch {
	case err != nil:
		return fmt.Errorf("mount point: %w", err)
	case there == "":
		return nil
	case !opts.Own && !opts.Over:
		return fmt.Errorf("mount point: %s holds %q, which a mount would hide: name an empty directory, or say --mount-over (%w)", path, there, syscall.ENOTEMPTY)
	}
	opts.Log.Warn("the mount point is not empty: the mount hides what is there until it ends", "mount", path, "there", there)
	return nil
}

// checkWritable reports whether path is a directory that this process may write to.
func checkWritable(path string) error {
	st, err := os.Stat(path)
	if err == nil && !st.IsDir() {
		err = &os.PathError{Op: "mount", Path: path, Err: syscall.ENOTDIR}
	}
	if err != nil {
		return fmt.Errorf("mount point: %w", err)
	}
	if err := unix.Faccessat(unix.AT_FDCWD, path, unix.W_OK|unix.X_OK, unix.AT_EACCESS); err != nil {
		return fmt.Errorf("mount point: %s may not be written to: %w", path, err)
	}
	return nil
}

// someName returns a name in the directory, or nothing if it is empty or may not be read.
func someName(path string) (string, error) {
	d, err := os.OpenFile(path, os.O_RDONLY|syscall.O_DIRECTORY, 0)
	if errors.Is(err, os.ErrPermission) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	defer d.Close()
	names, err := d.Readdirnames(1)
	if len(names) == 0 {
		return "", ignoreEOF(err)
	}
	return names[0], nil
}

func ignoreEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// Available says whether this process can mount. The error is an
// *UnavailableError.
func Available(direct bool) error {
	if _, err := os.Stat("/dev/fuse"); err != nil {
		return &UnavailableError{"/dev/fuse is missing", "load the module (modprobe fuse), or give the container the device (--device /dev/fuse)"}
	}
	// fusermount3 opens it with the rights of its user.
	if err := unix.Faccessat(unix.AT_FDCWD, "/dev/fuse", unix.R_OK|unix.W_OK, unix.AT_EACCESS); err != nil {
		return &UnavailableError{fmt.Sprintf("/dev/fuse cannot be opened: %v", err), "let everyone open it, as is usual (chmod 666 /dev/fuse as root), or run as root"}
	}
	if direct {
		return nil
	}
	if _, err := fusermount(); err != nil {
		return &UnavailableError{"fusermount3 is not installed", "install it (apt-get install fuse3), or run as root"}
	}
	return nil
}

// mountError makes an error of a failed mount clearer where its cause is known.
func mountError(path string, err error) error {
	switch {
	case errors.Is(err, syscall.EPERM):
		return &UnavailableError{fmt.Sprintf("mount at %s: not permitted", path), "run with CAP_SYS_ADMIN (in a container: --cap-add SYS_ADMIN --device /dev/fuse)"}
	case errors.Is(err, syscall.ENODEV):
		return &UnavailableError{"the kernel has no FUSE", "load the module (modprobe fuse)"}
	}
	return fmt.Errorf("mount at %s: %w", path, err)
}

// invalidator tells the kernel of changes it did not see. Attributes are
// dropped at once, in the caller's goroutine: that waits for nobody. Pages are
// dropped by a goroutine of its own, because the kernel may have to write back
// through this very server first.
type invalidator struct {
	server *gofuse.Server
	stop   chan struct{}
	idle   sync.WaitGroup
	wake   chan struct{} // capacity 1

	mu      sync.Mutex // protects pending
	pending map[extent.Ino]struct{}
}

func newInvalidator() *invalidator {
	return &invalidator{stop: make(chan struct{}), wake: make(chan struct{}, 1), pending: make(map[extent.Ino]struct{})}
}

func (v *invalidator) start(s *gofuse.Server) {
	v.server = s
	v.idle.Add(1)
	go v.run()
}

// invalidate is called by fs without any lock held.
func (v *invalidator) invalidate(ino extent.Ino) {
	// A negative offset leaves the pages alone. ENOENT is a file the kernel does
	// not know, which is as good.
	v.server.InodeNotify(uint64(ino), -1, 0)
	v.mu.Lock()
	v.pending[ino] = struct{}{}
	v.mu.Unlock()
	select {
	case v.wake <- struct{}{}:
	default:
	}
}

// drop is invalidate for callers who can wait until the kernel has written back and
// dropped all it has. It is not for a goroutine that serves the kernel. Attributes that
// are asked for while pages are dropped are not believed by the kernel, so who has
// changed a size must not return before.
func (v *invalidator) drop(ino extent.Ino) { v.server.InodeNotify(uint64(ino), 0, 0) }

func (v *invalidator) run() {
	defer v.idle.Done()
	for {
		select {
		case <-v.stop:
			return
		case <-v.wake:
		}
		v.mu.Lock()
		inos := v.pending
		v.pending = make(map[extent.Ino]struct{})
		v.mu.Unlock()
		for ino := range inos {
			v.server.InodeNotify(uint64(ino), 0, 0)
		}
	}
}

// close stops the goroutine. The mount must be gone, so that no notification
// waits for a reply.
func (v *invalidator) close() {
	close(v.stop)
	v.idle.Wait()
}
