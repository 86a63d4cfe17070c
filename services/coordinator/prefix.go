package coordinator

import (
	"encoding/binary"
	"hash/fnv"

	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/frame"
)

// maxPrefixes is how many pages of prompts are remembered of a pipeline.
const maxPrefixes = 1 << 14

// chainOf names the whole pages of a prompt: each name stands for all ids up to
// the page's end, for what pictures among them show, and for their domain, which is the
// tenant and the adapter, as in the prefix caches of the stages.
func chainOf(domain string, ids []int32, pictures []frame.Picture) []uint64 {
	h := fnv.New64a()
	h.Write([]byte(domain))
	var out []uint64
	var word [4]byte
	for i, id := range ids {
		if len(pictures) > 0 && int(pictures[0].Start) == i {
			h.Write(pictures[0].Hash[:])
			pictures = pictures[1:]
		}
		binary.LittleEndian.PutUint32(word[:], uint32(id))
		h.Write(word[:])
		if (i+1)%compute.PageTokens == 0 {
			out = append(out, h.Sum64())
		}
	}
	return out
}

// prefixes remembers the pages of the prompts that a pipeline was given lately. It
// is a guess at what its stages have cached: they evict by bytes, this by number.
type prefixes struct {
	known map[uint64]bool
	order []uint64 // oldest first
}

// add remembers the pages of a prompt.
func (p *prefixes) add(chain []uint64) {
	if p.known == nil {
		p.known = map[uint64]bool{}
	}
	for _, name := range chain {
		if p.known[name] {
			continue
		}
		p.known[name] = true
		p.order = append(p.order, name)
	}
	for over := len(p.order) - maxPrefixes; over > 0; over-- {
		delete(p.known, p.order[0])
		p.order = p.order[1:]
	}
}

// cached is how many ids of a prompt the pipeline has computed before.
func (p *prefixes) cached(chain []uint64) int {
	n := 0
	for n < len(chain) && p.known[chain[n]] {
		n++
	}
	return n * compute.PageTokens
}
