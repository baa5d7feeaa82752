package test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// TestPostgres: PostgreSQL, with its checksums on, keeps what it said was committed, whichever of the two is killed.
func TestPostgres(t *testing.T) {
	t.Parallel()
	pg := newPostgres(t)
	v := pg.v
	pg.must(t, "initdb", "-k", "--auth=trust", "--no-locale", "-D", pg.data)
	pg.start(t)
	pg.must(t, "pgbench", "-i", "-q", "-s", "1")
	pg.sql(t, "CREATE TABLE said (n int PRIMARY KEY)")
	rounds := 2
	if testing.Short() {
		rounds = 1
	}
	for range rounds {
		load := pg.load(t)
		pg.kill()
		load.wait()
		pg.start(t) // it recovers from its log
		load.wantAll(t)

		load = pg.load(t)
		v.kill()
		pg.kill()
		load.wait()
		v.check(t)
		v.start(t)
		pg.start(t)
		load.wantAll(t)
	}
	pg.stop(t)
	pg.must(t, "pg_checksums", "--check", "-D", pg.data)
	v.stop(t)
	v.check(t)
}

// postgres is a PostgreSQL whose data lies on the mount of v.
type postgres struct {
	v            *volume
	bin          string
	data, socket string
	credential   *syscall.Credential
	server       *process
	log          bytes.Buffer
	said         int // numbers up to it may be in the table
}

func newPostgres(t *testing.T) *postgres {
	t.Helper()
	bins, _ := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
	if len(bins) == 0 {
		t.Skip("needs postgresql")
	}
	pg := &postgres{v: serve(t, "--size", "1G"), bin: filepath.Dir(bins[len(bins)-1])}
	socket, err := os.MkdirTemp("", "holdfast-pg-") // short: a socket's path has 107 bytes
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(socket) })
	pg.socket, pg.data = socket, pg.v.path("pg")
	must(t, os.Mkdir(pg.data, 0o700))
	if os.Geteuid() == 0 { // which it refuses to run as
		u, err := user.Lookup("postgres")
		must(t, err)
		uid, _ := strconv.Atoi(u.Uid)
		gid, _ := strconv.Atoi(u.Gid)
		pg.credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
		must(t, os.Chown(pg.data, uid, gid))
		must(t, os.Chown(socket, uid, gid))
		for dir := pg.v.mnt; dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
			must(t, os.Chmod(dir, 0o755))
		}
	}
	t.Cleanup(func() { pg.end(t) })
	return pg
}

func (pg *postgres) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(pg.bin, name), args...)
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), "PGHOST="+pg.socket, "PGDATABASE=postgres", "PGUSER=postgres")
	if pg.credential == nil {
		cmd.Env[len(cmd.Env)-1] = "PGUSER=" + os.Getenv("USER")
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: pg.credential, Setpgid: true}
	return cmd
}

func (pg *postgres) must(t *testing.T, name string, args ...string) string {
	t.Helper()
	var errOut bytes.Buffer
	cmd := pg.command(name, args...)
	cmd.Stderr = &errOut
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s%s", name, err, out, errOut.Bytes())
	}
	return strings.TrimSpace(string(out))
}

func (pg *postgres) sql(t *testing.T, sql string) string {
	t.Helper()
	return pg.must(t, "psql", "-qAt", "-v", "ON_ERROR_STOP=1", "-c", sql)
}

func (pg *postgres) start(t *testing.T) {
	t.Helper()
	os.Remove(filepath.Join(pg.data, "postmaster.pid")) // of one that was killed, whose number may be in use again
	cmd := pg.command("postgres", "-D", pg.data, "-k", pg.socket, "-c", "listen_addresses=", "-c", "shared_buffers=16MB", "-c", "restart_after_crash=off")
	cmd.Stdout, cmd.Stderr = &pg.log, &pg.log
	var err error
	pg.server, err = start(cmd, syscall.SIGQUIT)
	must(t, err)
	eventually(t, "PostgreSQL answers", func() bool {
		select {
		case <-pg.server.done:
			t.Fatalf("PostgreSQL ended: %v\n%s", pg.server.err, pg.log.Bytes())
		default:
		}
		return pg.command("pg_isready", "-q").Run() == nil
	})
}

// kill ends PostgreSQL as a crash does: all of its processes at once. One of them alone may leave others waiting for ever.
func (pg *postgres) kill() {
	pid := pg.server.Process.Pid
	syscall.Kill(pid, syscall.SIGSTOP) // so that it has no more children
	for _, child := range children(pid) {
		syscall.Kill(child, syscall.SIGKILL)
	}
	pg.server.Process.Kill()
	<-pg.server.done // when the last of them has closed the log
}

// children returns the processes whose parent is pid.
func children(pid int) (found []int) {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		stat, _ := os.ReadFile(path)
		_, rest, _ := bytes.Cut(stat, []byte(") ")) // behind the name: state, parent
		var state string
		var parent, child int
		if n, _ := fmt.Sscan(string(rest), &state, &parent); n == 2 && parent == pid {
			fmt.Sscan(string(stat), &child)
			found = append(found, child)
		}
	}
	return found
}

func (pg *postgres) stop(t *testing.T) {
	t.Helper()
	pg.server.Process.Signal(syscall.SIGINT)
	<-pg.server.done
	if pg.server.err != nil {
		t.Fatalf("PostgreSQL did not end cleanly: %v\n%s", pg.server.err, pg.log.Bytes())
	}
}

func (pg *postgres) end(t *testing.T) {
	if pg.server == nil {
		return
	}
	select {
	case <-pg.server.done:
	default:
		pg.kill()
	}
	if t.Failed() {
		t.Logf("log of PostgreSQL:\n%s", pg.log.Bytes())
	}
}

// load is clients that change the database until it is gone.
type load struct {
	pg   *postgres
	wg   sync.WaitGroup
	mu   sync.Mutex // protects said
	said []int
}

// load starts clients: one with transactions whose sums must agree, and some that note what they were told is committed. It returns
// when each has been told something.
func (pg *postgres) load(t *testing.T) *load {
	t.Helper()
	l := &load{pg: pg}
	l.wg.Go(func() { pg.command("pgbench", "-n", "-c", "4", "-T", "600").Run() }) // ends with the server
	const clients = 3
	told := make(chan struct{})
	for c := range clients {
		var sql strings.Builder
		for n := pg.said + 1 + c; n < pg.said+50000; n += clients {
			fmt.Fprintf(&sql, "INSERT INTO said VALUES (%d) RETURNING n;\n", n)
		}
		cmd := pg.command("psql", "-qAt", "-v", "ON_ERROR_STOP=1")
		cmd.Stdin = strings.NewReader(sql.String())
		out, err := cmd.StdoutPipe()
		must(t, err)
		must(t, cmd.Start())
		l.wg.Go(func() {
			l.listen(out, told)
			cmd.Wait()
		})
	}
	for range clients {
		<-told
	}
	return l
}

// listen notes what a client is told. It says on told when it has been told 20 numbers, or nothing more is to come.
func (l *load) listen(out io.Reader, told chan<- struct{}) {
	lines := bufio.NewScanner(out)
	heard := 0
	for ; lines.Scan(); heard++ {
		if n, err := strconv.Atoi(lines.Text()); err == nil {
			l.mu.Lock()
			l.said = append(l.said, n)
			l.mu.Unlock()
		}
		if heard == 20 {
			told <- struct{}{}
		}
	}
	if heard <= 20 {
		told <- struct{}{}
	}
}

func (l *load) wait() { l.wg.Wait() }

// wantAll checks that all is there that was said to be committed, that sums agree, and that no index or page is damaged.
func (l *load) wantAll(t *testing.T) {
	t.Helper()
	if len(l.said) == 0 {
		t.Fatalf("no client was told anything\n%s", l.pg.log.Bytes())
	}
	have := make(map[string]bool)
	for _, n := range strings.Fields(l.pg.sql(t, "SELECT n FROM said")) {
		have[n] = true
	}
	for _, n := range l.said {
		if !have[strconv.Itoa(n)] {
			t.Errorf("%d was committed and is gone", n)
		}
	}
	l.pg.said = slices.Max(l.said) + 1000 // past what was committed without anybody being told
	sums := l.pg.sql(t, `SELECT (SELECT sum(abalance) FROM pgbench_accounts), (SELECT sum(tbalance) FROM pgbench_tellers),
		(SELECT sum(bbalance) FROM pgbench_branches), (SELECT coalesce(sum(delta), 0) FROM pgbench_history)`)
	if s := strings.Split(sums, "|"); s[0] != s[1] || s[0] != s[2] || s[0] != s[3] {
		t.Errorf("sums of what each transaction changes together differ: %s", sums)
	}
	l.pg.sql(t, "CREATE EXTENSION IF NOT EXISTS amcheck")
	l.pg.must(t, "pg_amcheck", "-d", "postgres")
	if t.Failed() {
		t.FailNow()
	}
}
