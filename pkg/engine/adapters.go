package engine

import (
	"fmt"

	"github.com/shoal-llm/shoal/pkg/frame"
)

// numberOf returns the number of an adapter, from 1 on; 0: it is not loaded.
func (s *Stage) numberOf(id string) int {
	for i := range s.cfg.Adapters {
		if s.cfg.Adapters[i].ID == id {
			return i + 1
		}
	}
	return 0
}

// checkAdapters refuses sessions whose adapter is not loaded: without it their answers
// would be those of the model itself.
func (s *Stage) checkAdapters(f *frame.Frame) error {
	for i := range f.Ops {
		if o := f.Ops[i].Open; o != nil && o.Adapter != "" && s.numberOf(o.Adapter) == 0 {
			return fmt.Errorf("%w: adapter %q is not loaded", ErrBadFrame, o.Adapter)
		}
	}
	return nil
}

// adapt notes the adapters of the batch's spans.
func (s *Stage) adapt(w *work) {
	for i := range w.batch.Spans {
		w.batch.Spans[i].Adapter = s.adapters[w.frame.Spans[i].Slot]
	}
}
