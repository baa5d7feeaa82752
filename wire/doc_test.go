package wire_test

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"holdfast/wire"
)

// The table of operations in docs/protocol.md has the numbers and sizes of the code.
func TestProtocolDocument(t *testing.T) {
	text, err := os.ReadFile("../docs/protocol.md")
	if err != nil {
		t.Fatal(err)
	}
	size := func(b wire.Body) int { return len(b.Append(nil)) } // without items
	for _, op := range []struct {
		op         wire.Op
		req, reply wire.Body
		items      bool
	}{
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
		{wire.OpBreak, nil, &wire.Break{}, false},
		{wire.OpEvent, nil, nil, false},
	} {
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
