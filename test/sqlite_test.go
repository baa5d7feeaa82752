package test

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// TestSQLite: a database keeps what it said was committed, whichever of the two is killed, in its journal modes.
func TestSQLite(t *testing.T) {
	t.Parallel()
	need(t, "sqlite3")
	for _, mode := range []string{"delete", "truncate", "wal"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			v := serve(t, "--size", "256M")
			db := &sqlite{path: v.path("db"), mode: mode}
			db.must(t, "CREATE TABLE t (n INTEGER PRIMARY KEY, v BLOB)")
			rounds := 5
			if testing.Short() {
				rounds = 2
			}
			for range rounds {
				p := db.insert(t)
				p.Process.Kill() // the database
				db.wantAll(t, p, 0)

				p = db.insert(t)
				v.kill()
				p.Process.Kill() // it sees an error, or nothing any more
				v.check(t)
				v.start(t)
				// With delete a commit is the removal of the journal, and then a sync of the directory. SQLite takes
				// it for done also if it cannot open the directory any more, as when the server has gone in between.
				unsynced := 0
				if mode == "delete" {
					unsynced = 1
				}
				db.wantAll(t, p, unsynced)
			}
			v.stop(t)
			v.check(t)
		})
	}
}

// sqlite is a database that writers are killed over. It knows the highest number that was committed.
type sqlite struct {
	path, mode string
	committed  int
}

// settings come before all else in each session. With FULL the end of a transaction, the removal of its journal, is not synced.
func (db *sqlite) settings() string {
	return "PRAGMA journal_mode=" + db.mode + "; PRAGMA synchronous=EXTRA; PRAGMA busy_timeout=10000;\n"
}

func (db *sqlite) must(t *testing.T, sql string) string {
	t.Helper()
	out := mustRun(t, "sqlite3", "-bail", db.path, db.settings()+sql)
	_, answer, _ := strings.Cut(out, "10000\n") // what the settings say
	return strings.TrimSpace(answer)
}

// writer is a session that inserts and says each number once it is committed.
type writer struct {
	*process
	out *bufio.Scanner
}

// insert starts a writer and returns when it has committed some numbers. It goes on.
func (db *sqlite) insert(t *testing.T) *writer {
	t.Helper()
	cmd := exec.Command("sqlite3", "-bail", db.path)
	var sql strings.Builder
	sql.WriteString(db.settings())
	const many = 20000
	for n := db.committed + 1; n < db.committed+many; n++ {
		fmt.Fprintf(&sql, "BEGIN; INSERT INTO t VALUES (%d, randomblob(%d)); UPDATE t SET v=randomblob(700) WHERE n=%d; COMMIT; SELECT 'n', %[1]d;\n", n, n%5000, max(1, n-7))
	}
	cmd.Stdin = strings.NewReader(sql.String())
	r, w, err := os.Pipe()
	must(t, err)
	cmd.Stdout = w
	p, err := start(cmd, syscall.SIGKILL)
	w.Close()
	must(t, err)
	t.Cleanup(func() { p.Process.Kill(); <-p.done; r.Close() })
	wr := &writer{p, bufio.NewScanner(r)}
	for seen := 0; seen < 30; seen++ {
		if !db.next(wr) {
			t.Fatal("the writer ended by itself")
		}
	}
	return wr
}

// next reads one more number, and reports whether there was one.
func (db *sqlite) next(w *writer) bool {
	for w.out.Scan() {
		if n, ok := strings.CutPrefix(w.out.Text(), "n|"); ok {
			db.committed, _ = strconv.Atoi(n)
			return true
		}
	}
	return false
}

// wantAll waits for the end of the writer, and looks at what is in the database. As many as unsynced may be missing at the end.
func (db *sqlite) wantAll(t *testing.T, w *writer, unsynced int) {
	t.Helper()
	<-w.done
	for db.next(w) { // said before it was killed
	}
	if got := db.must(t, "PRAGMA integrity_check"); got != "ok" {
		t.Fatalf("integrity_check: %s", got)
	}
	got := db.must(t, "SELECT count(*), max(n) FROM t")
	var count, highest int
	if _, err := fmt.Sscanf(got, "%d|%d", &count, &highest); err != nil {
		t.Fatalf("%q: %v", got, err)
	}
	// One more may be committed that nobody was told of.
	if count != highest || highest < db.committed-unsynced || highest > db.committed+1 {
		t.Fatalf("%d rows up to %d, want all up to %d", count, highest, db.committed)
	}
	db.committed = highest
}
