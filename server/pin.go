package server

import "errors"

// tryPinning says whether devices can reach the pages of windows on this machine. The volume is served all the same: what cannot be
// pinned can still be mapped.
func (s *server) tryPinning(probe func() error) {
	switch err := probe(); {
	case err == nil:
		s.log.Info("pages of windows can be pinned for long")
	case errors.Is(err, errors.ErrUnsupported):
		s.log.Info("whether pages of windows can be pinned for long cannot be tried here", "reason", err)
	default:
		s.log.Warn("pages of windows cannot be pinned for long: no device will reach them", "reason", err)
	}
}
