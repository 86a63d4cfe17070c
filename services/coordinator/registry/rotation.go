package registry

import (
	"encoding/base64"
	"errors"
	"slices"
	"time"
)

// Phases of a rotation.
const (
	phaseIdle   = ""       // one key
	phaseAdding = "adding" // the new key decrypts everywhere, the old one encrypts
	phaseUsing  = "using"  // the new key encrypts, the old one still decrypts
)

// rotation replaces the key of the gossip without a moment in which two nodes do
// not understand each other: the new key is added everywhere, then used
// everywhere, then the old one is dropped. It is pure: no clock, no messages.
type rotation struct {
	Keys  []string  `json:"keys"` // base64; the first encrypts
	Phase string    `json:"phase,omitempty"`
	Since time.Time `json:"since"`           // of the phase
	Again bool      `json:"again,omitempty"` // another one follows
}

func newRotation(now time.Time) rotation {
	return rotation{Keys: []string{spell(newKey())}, Since: now}
}

func spell(k [32]byte) string { return base64.StdEncoding.EncodeToString(k[:]) }

// check refuses what a damaged file holds.
func (r *rotation) check() error {
	want := 1
	if r.Phase != phaseIdle {
		want = 2
	}
	if len(r.Keys) != want || !slices.Contains([]string{phaseIdle, phaseAdding, phaseUsing}, r.Phase) {
		return errors.New("its gossip keys are damaged")
	}
	for _, k := range r.Keys {
		if raw, err := base64.StdEncoding.DecodeString(k); err != nil || len(raw) != 32 {
			return errors.New("its gossip keys are damaged")
		}
	}
	return nil
}

// keys are the keys in force, the one that encrypts first.
func (r *rotation) keys() [][32]byte {
	out := make([][32]byte, len(r.Keys))
	for i, k := range r.Keys {
		raw, _ := base64.StdEncoding.DecodeString(k) // checked
		copy(out[i][:], raw)
	}
	return out
}

// begin adds a new key, or remembers to once the rotation under way has ended.
func (r *rotation) begin(now time.Time) {
	if r.Phase != phaseIdle {
		r.Again = true
		return
	}
	r.Keys, r.Phase, r.Since = []string{r.Keys[0], spell(newKey())}, phaseAdding, now
}

// step lets time pass and reports whether keys have changed; held says that every
// node that follows has the current keys in force.
func (r *rotation) step(now time.Time, t Times, held bool) bool {
	age := now.Sub(r.Since)
	late := age >= t.Patience
	switch r.Phase {
	case phaseIdle:
		if age < t.Every && !r.Again {
			return false
		}
		r.Again = false
		r.begin(now)
	case phaseAdding:
		if age < t.Settle || !held && !late {
			return false
		}
		r.Keys, r.Phase, r.Since = []string{r.Keys[1], r.Keys[0]}, phaseUsing, now
	case phaseUsing:
		if age < t.Overlap || !held && !late {
			return false
		}
		r.Keys, r.Phase, r.Since = r.Keys[:1:1], phaseIdle, now
	}
	return true
}

// String says in words how far a rotation is.
func (r *rotation) String() string {
	text := "one key"
	switch r.Phase {
	case phaseAdding:
		text = "a new key is added"
	case phaseUsing:
		text = "the new key is used, the old one still understood"
	}
	if r.Again {
		text += "; another rotation follows"
	}
	return text
}
