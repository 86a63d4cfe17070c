package gateway

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
)

// TestOccasion counts who is told: watchers that stay, once, and those that
// come late; not those that gave up.
func TestOccasion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOccasion()
		var told, left atomic.Int32
		stay := o.watch(func() { told.Add(1) })
		if stop := o.watch(func() { left.Add(1) }); !stop() || stop() {
			t.Error("a watcher that gave up was told, or gave up twice")
		}
		synctest.Wait()
		if told.Load() != 0 {
			t.Error("a watcher was told before it happened")
		}
		o.happen()
		late := o.watch(func() { told.Add(1) })
		synctest.Wait()
		<-o.done
		if told.Load() != 2 || left.Load() != 0 || stay() || late() {
			t.Errorf("%d of 2 watchers were told, and %d that gave up", told.Load(), left.Load())
		}
	})
}
