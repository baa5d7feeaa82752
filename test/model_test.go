package test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/client"
	"holdfast/fs"
	"holdfast/internal/posixmodel"
	"holdfast/internal/testserver"
)

const (
	modelSeedVar = "HOLDFAST_MODEL_SEED"
	modelOpsVar  = "HOLDFAST_MODEL_OPS"
	modelUmask   = 0o022
	modelRound   = 2500 // operations of a world between two restarts
)

// TestModel does operations at random on the mount, by several processes, and holds each answer
// against a model in memory. The server is stopped and killed in between; before it is killed all
// files and directories are fsynced, so nothing may be lost. In "one" all processes share a tree
// and take turns; in "beside" each has a tree of its own, and all go at once.
func TestModel(t *testing.T) {
	testserver.NeedRoot(t)
	seed, ops := uint64(time.Now().UnixNano()), 20_000
	if testing.Short() {
		ops = 5_000
	}
	if s := os.Getenv(modelSeedVar); s != "" {
		n, err := strconv.ParseUint(s, 10, 64)
		must(t, err)
		seed = n
	}
	if s := os.Getenv(modelOpsVar); s != "" {
		n, err := strconv.Atoi(s)
		must(t, err)
		ops = n
	}
	t.Logf("%s=%d %s=%d", modelSeedVar, seed, modelOpsVar, ops)
	t.Run("one", func(t *testing.T) {
		t.Parallel()
		newModelRun(t, seed, 1, 3).do(t, ops/2)
	})
	t.Run("beside", func(t *testing.T) {
		t.Parallel()
		newModelRun(t, seed+1, 3, 1).do(t, ops/2)
	})
}

// modelRun is a volume with some worlds on it.
type modelRun struct {
	v      *volume
	worlds []*world
	free   int64 // blocks of the empty volume
	shared int64 // bytes that were shared when it was looked, added up
	rules  posixmodel.Rules
}

// world is a tree with its model and the processes that work in it.
type world struct {
	t      *testing.T
	name   string
	m      *posixmodel.Model
	g      *posixmodel.Gen
	actors []*actor
	log    []logged
	count  int
}

// logged is an operation that was done, and what it was about.
type logged struct {
	text  string
	files []int
}

func newModelRun(t *testing.T, seed uint64, worlds, procs int) *modelRun {
	t.Helper()
	r := &modelRun{v: serve(t)}
	r.rules = posixmodel.Rules{MaxSize: 1 << 53, Zero: true, Blocks: true, Times: true, Umask: modelUmask}
	for k := range worlds {
		w := &world{t: t, name: fmt.Sprint("tree", k), m: posixmodel.New(r.rules, procs, 0o755)}
		w.g = posixmodel.NewGen(w.m, seed+uint64(k)<<32, true)
		for range procs {
			w.actors = append(w.actors, newActor(t))
		}
		must(t, os.Mkdir(r.v.path(w.name), 0o755))
		r.worlds = append(r.worlds, w)
	}
	r.free = r.v.free(t)
	r.begin(t)
	return r
}

// begin has the processes begin on the mount as it is now.
func (r *modelRun) begin(t *testing.T) {
	for _, w := range r.worlds {
		for _, a := range w.actors {
			a.do("ModelRoot", Do{Path: r.v.path(w.name)})
		}
	}
}

func (r *modelRun) do(t *testing.T, ops int) {
	begun := time.Now()
	for round := 0; ops > 0; round++ {
		n := min(ops/len(r.worlds), modelRound)
		r.all(t, func(w *world) error { return w.some(n) })
		if ops -= max(n, 1) * len(r.worlds); t.Failed() {
			return
		}
		r.restart(t, round%2 == 1)
		r.all(t, (*world).verify)
		if t.Failed() {
			return
		}
		r.checkFree(t)
		if testing.Verbose() && round%20 == 0 {
			t.Logf("round %d after %v, %d left", round, time.Since(begun).Round(time.Second), ops)
		}
	}
	r.v.stop(t)
	r.v.check(t)
	t.Logf("%d bytes were shared at the ends of rounds, added up", r.shared)
}

// all lets the worlds do something beside each other.
func (r *modelRun) all(t *testing.T, what func(*world) error) {
	t.Helper()
	var wg sync.WaitGroup
	for _, w := range r.worlds {
		wg.Go(func() {
			if err := what(w); err != nil {
				t.Errorf("%s: %v", w.name, err)
			}
		})
	}
	wg.Wait()
}

// restart stops the server, or kills it after everything was fsynced.
func (r *modelRun) restart(t *testing.T, kill bool) {
	t.Helper()
	leases := func(w *world) error { return w.dropLeases() }
	r.all(t, leases)
	if kill {
		must(t, fsyncTree(r.v.mnt))
		r.v.kill()
	}
	for _, w := range r.worlds {
		for _, a := range w.actors {
			a.do("ModelEnd", Do{})
		}
		w.m.Restart()
	}
	if !kill {
		r.v.stop(t)
	}
	r.v.check(t)
	r.v.start(t)
	r.begin(t)
}

// fsyncTree makes everything below a directory durable.
func fsyncTree(path string) error {
	info, err := os.Lstat(path)
	if err != nil || !info.IsDir() && !info.Mode().IsRegular() {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if info.IsDir() {
		names, err := f.Readdirnames(-1)
		for _, name := range names {
			err = errors.Join(err, fsyncTree(path+"/"+name))
		}
		if err != nil {
			return err
		}
	}
	return f.Sync()
}

// checkFree: what is not of the files is free, to the block. Files may share blocks.
func (r *modelRun) checkFree(t *testing.T) {
	t.Helper()
	blocks, single := map[int64]bool{}, int64(0)
	seen := map[uint64]bool{}
	var session *client.Session
	err := walkStat(r.v.mnt, func(path string, st *unix.Stat_t) {
		if st.Mode&unix.S_IFMT != unix.S_IFREG || seen[st.Ino] {
			return
		}
		seen[st.Ino] = true
		f, err := os.Open(path)
		must(t, err)
		defer f.Close()
		if session == nil {
			session, err = client.ForFile(t.Context(), f)
			must(t, err)
		}
		raw, err := session.Stat(t.Context(), f)
		must(t, err)
		var info fs.FileInfo
		must(t, json.Unmarshal(raw, &info))
		sum := int64(0)
		for _, e := range info.Extents {
			for at := range e.Len / blockSize {
				blocks[e.Addr.Off+at*blockSize] = true
			}
			sum += e.Len
		}
		if sum != st.Blocks*512 {
			t.Errorf("%s has %d bytes of blocks, and extents of %d", path, st.Blocks*512, sum)
		}
		single += sum
	})
	must(t, err)
	if session != nil {
		session.Close()
	}
	used := int64(len(blocks)) * blockSize
	if free := r.v.free(t); free+used != r.free {
		t.Errorf("%d bytes are free and %d used, by files that have %d, of %d", free, used, single, r.free)
	}
	r.shared += single - used
}

func walkStat(path string, see func(string, *unix.Stat_t)) error {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return err
	}
	see(path, &st)
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return nil
	}
	entries, err := os.ReadDir(path)
	for _, e := range entries {
		err = errors.Join(err, walkStat(path+"/"+e.Name(), see))
	}
	return err
}

// some does n operations, a few at a time by each process.
func (w *world) some(n int) error {
	for n > 0 {
		proc := w.g.IntN(len(w.actors))
		length := min(n, 1+w.g.IntN(24))
		n -= length
		i := 0
		err := w.batch(proc, func() (posixmodel.Op, bool) {
			if i++; i > length {
				return posixmodel.Op{}, false
			}
			return w.g.Next(proc), true
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// verify looks at everything.
func (w *world) verify() error { return w.list(0, w.g.VerifyOps(0)) }

// dropLeases gives back all leases.
func (w *world) dropLeases() error {
	for proc := range w.actors {
		if err := w.list(proc, w.g.DropOps(proc)); err != nil {
			return err
		}
	}
	return nil
}

func (w *world) list(proc int, ops []posixmodel.Op) error {
	return w.batch(proc, func() (posixmodel.Op, bool) {
		if len(ops) == 0 {
			return posixmodel.Op{}, false
		}
		op := ops[0]
		ops = ops[1:]
		return op, true
	})
}

// batch does operations of one process, first in the model, then on the mount.
func (w *world) batch(proc int, next func() (posixmodel.Op, bool)) error {
	moment := w.m.Begin()
	var ops []posixmodel.Op
	var wants []posixmodel.Want
	for op, ok := next(); ok; op, ok = next() {
		want := w.m.Do(op)
		ops, wants = append(ops, op), append(wants, want)
		w.log = append(w.log, logged{op.String(), want.Files})
	}
	if len(w.log) > 200_000 {
		w.log = slices.Clone(w.log[100_000:])
	}
	moment.From = time.Now()
	got, err := w.actors[proc].model(ops)
	moment.To = time.Now()
	if err != nil {
		return err
	}
	for k, want := range wants {
		w.count++
		if err := want.Check(got[k]); err != nil {
			w.log = w.log[:len(w.log)-len(ops)+k+1]
			return fmt.Errorf("after %d operations: %w\n%s", w.count, err, w.history(want.Files))
		}
	}
	return nil
}

// history returns the last operations on the files, and the last of all.
func (w *world) history(files []int) string {
	var about []string
	for _, l := range slices.Backward(w.log) {
		if slices.ContainsFunc(l.files, func(id int) bool { return slices.Contains(files, id) }) {
			about = append(about, fmt.Sprintf("%s %v", l.text, l.files))
		}
		if len(about) == 60 {
			break
		}
	}
	slices.Reverse(about)
	var last []string
	for _, l := range w.log[max(0, len(w.log)-15):] {
		last = append(last, l.text)
	}
	return fmt.Sprintf("the last operations on files %v:\n%s\nthe last of all:\n%s", files, strings.Join(about, "\n"), strings.Join(last, "\n"))
}

// model has an actor do operations.
func (a *actor) model(ops []posixmodel.Op) (results []posixmodel.Result, err error) {
	call := a.calls.Go("Actor.ModelDo", ops, &results, nil)
	select {
	case <-call.Done:
		err = call.Error
	case <-time.After(2 * patience):
		err = fmt.Errorf("process %d does not end its operations", a.pid())
	}
	if err == nil && len(results) != len(ops) {
		err = fmt.Errorf("%d answers to %d operations", len(results), len(ops))
	}
	return results, err
}
