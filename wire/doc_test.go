package wire_test

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"holdfast/wire"
)

// documented is an operation and the bodies of its request and answer; nil is JSON, or none.
type documented struct {
	op         wire.Op
	req, reply wire.Body
	items      bool // follow what the answer has of a fixed size
}

func operations() []documented {
	return []documented{
		{wire.OpHello, &wire.Hello{}, &wire.HelloReply{}, false},
		{wire.OpAttach, &wire.Attach{}, &wire.AttachReply{}, false},
		{wire.OpAcquire, &wire.Acquire{}, &wire.LeaseReply{}, true},
		{wire.OpReturn, &wire.Return{}, &wire.LeaseReply{}, true},
		{wire.OpModify, &wire.Modify{}, &wire.LeaseReply{}, true},
		{wire.OpRegister, &wire.Register{}, &wire.RegisterReply{}, true},
		{wire.OpPin, &wire.Pin{}, &wire.ID{}, false},
		{wire.OpUnpin, &wire.ID{}, &wire.Empty{}, false},
		{wire.OpMap, &wire.Map{}, &wire.MapReply{}, true},
		{wire.OpCommit, &wire.Commit{}, &wire.Empty{}, false},
		{wire.OpChange, &wire.Change{}, &wire.Empty{}, false},
		{wire.OpAdmit, &wire.Empty{}, &wire.Empty{}, false},
		{wire.OpLeaseInfo, &wire.ID{}, &wire.LeaseReply{}, true},
		{wire.OpList, &wire.List{}, nil, false},
		{wire.OpWho, &wire.Empty{}, nil, false},
		{wire.OpWould, &wire.Would{}, nil, false},
		{wire.OpStat, &wire.Empty{}, nil, false},
		{wire.OpSubscribe, &wire.Empty{}, &wire.Empty{}, false},
		{wire.OpCancel, &wire.Cancel{}, &wire.Empty{}, false},
		{wire.OpGrow, &wire.Grow{}, &wire.Grow{}, false},
		{wire.OpScrub, &wire.Scrub{}, nil, false},
		{wire.OpSeize, &wire.ID{}, &wire.Empty{}, false},
		{wire.OpExpire, &wire.ID{}, &wire.Empty{}, false},
		{wire.OpClaim, &wire.ID{}, &wire.Empty{}, false},
		{wire.OpShare, &wire.ID{}, &wire.LeaseReply{}, true},
		{wire.OpReclaim, &wire.Reclaim{}, &wire.Reclaimed{}, false},
		{wire.OpDefrag, &wire.Defrag{}, nil, false},
		{wire.OpEvacuate, &wire.Evacuate{}, nil, false},
		{wire.OpLimits, &wire.Empty{}, nil, false},
		{wire.OpBreak, nil, &wire.Break{}, false},
		{wire.OpEvent, nil, nil, false},
	}
}

// size is that of a body without items.
func size(b wire.Body) int { return len(b.Append(nil)) }

// The table of operations in docs/protocol.md has the numbers and sizes of the code.
func TestProtocolDocument(t *testing.T) {
	text, err := os.ReadFile("../docs/protocol.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, op := range operations() {
		req, reply := "", "JSON"
		if op.req != nil {
			req = fmt.Sprint(size(op.req))
		}
		if op.reply != nil {
			reply = fmt.Sprint(size(op.reply))
		}
		if op.items {
			reply += "+"
		}
		row := fmt.Sprintf("| %v | %d | %s | %s |", op.op, op.op, req, reply)
		if !strings.Contains(string(text), strings.ReplaceAll(row, "|  |", "| |")) {
			t.Errorf("no row %q", row)
		}
		if !regexp.MustCompile(fmt.Sprintf(`(?m)^### %v \(%d\)$`, op.op, op.op)).Match(text) {
			t.Errorf("%v (%d) is not described", op.op, op.op)
		}
	}
}

// The tables of the bodies have no gap and no overlap, and end where the code's bodies do.
func TestProtocolTables(t *testing.T) {
	text, err := os.ReadFile("../docs/protocol.md")
	if err != nil {
		t.Fatal(err)
	}
	table := regexp.MustCompile(`(?m)^\| offset \| size \| ?(.*) \|\n\|[-|]+\|\n((?:\|.*\|\n)+)`)
	for _, op := range operations() {
		_, section, _ := strings.Cut(string(text), fmt.Sprintf("\n### %v (%d)\n", op.op, op.op))
		section, _, _ = strings.Cut(section, "\n##")
		for _, m := range table.FindAllStringSubmatch(section, -1) {
			end := tableEnd(t, op.op, m[2])
			for what, body := range map[string]wire.Body{"request": op.req, "answer": op.reply} {
				named := strings.Contains(m[1], what) || m[1] == "" && what == "answer"
				if named && body != nil && end != size(body) {
					t.Errorf("%v: the table of the %s ends at %d, the code's body at %d", op.op, what, end, size(body))
				}
			}
		}
		if op.req != nil && size(op.req) > 0 && !strings.Contains(section, "| offset | size | request") {
			t.Errorf("%v: the fields of the request are not there", op.op)
		}
	}
}

// tableEnd returns where the last field of a fixed size ends.
func tableEnd(t *testing.T, op wire.Op, rows string) (end int) {
	for row := range strings.Lines(rows) {
		cells := strings.Split(row, "|")
		var off, n int
		if _, err := fmt.Sscan(cells[1], &off); err != nil || off != end {
			t.Errorf("%v: field at %q, want %d: %s", op, cells[1], end, row)
		}
		if strings.Contains(cells[2], "each") || strings.TrimSpace(cells[2]) == "" {
			return end
		}
		if _, err := fmt.Sscan(cells[2], &n); err != nil {
			t.Errorf("%v: size %q", op, cells[2])
		}
		end = off + n
	}
	return end
}
