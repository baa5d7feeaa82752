package local

import "holdfast/wire"

// limits lists what users have used up: all of them to administrators, one's own to others.
func (r *request) limits() error {
	if err := (&wire.Empty{}).Decode(r.body); err != nil {
		return err
	}
	uses := r.srv.cfg.Arbiter.Uses(r.srv.cfg.FS.OrphanedBytes())
	mine := uses[:0]
	for _, u := range uses {
		if r.caller.admin || u.User == r.caller.uid {
			mine = append(mine, u)
		}
	}
	a := &jsonAnswer{r: r}
	return a.finish(array(a, mine))
}
