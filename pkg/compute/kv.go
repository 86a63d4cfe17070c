package compute

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// What is meant where a class says no more than its bits.
const (
	DefaultKVGroup  = 32  // values that share a scale
	DefaultKVRecent = 128 // positions that stay halves before they become 4, 3 or 2 bits
)

// KVBlock is how many positions are thinned together: a session does so where it has
// a multiple of them.
const KVBlock = 1024

const blockPages = KVBlock / PageTokens

// ErrKVClass says that keys and values cannot be stored as wished.
var ErrKVClass = errors.New("KV class")

// KVClass says how a cache stores keys and values. The zero value is float32; 16
// bits are halves.
//
// With 8 bits each Group values of a head have a scale and a minimum, both halves,
// and a code each. Before, the head is turned by a normalised Hadamard matrix,
// which spreads channels of large values over all others (Ashkboos et al.,
// "QuaRot", arXiv:2404.00456); queries are turned alike and results turned back,
// so that attention is what it was.
//
// With 4, 3 or 2 bits values step down as they age. A page is stored in halves
// while its positions are written and seen by near queries, and in codes for far
// ones: keys in groups of one channel, values in groups of one position, as the
// outliers of keys are whole channels (Liu et al., "KIVI", arXiv:2402.02750). A
// query at position p sees page j in halves where p/64 − j ≤ Recent/64, and page 0
// always (Xiao et al., "Efficient streaming language models with attention
// sinks", arXiv:2309.17453); where there is a step of Upper bits, in these where
// p/64 − j ≤ Far/64; else in Bits. All codes are made of the halves.
//
// So the precision in which a row sees another depends on both positions alone:
// how a prompt is cut never changes a bit.
//
// With Ratio a session forgets: when it has a multiple of KVBlock positions, the
// block that ends Older before keeps one of Ratio of its positions, for each head
// of keys those that the queries of the last page gave the most weight (after Li et
// al., "SnapKV", arXiv:2404.14469; of equal ones the first), in as many pages fewer.
// Page 0 stays whole and counts. That, too, follows from the session's own rows: no
// step has rows of a session on both sides of a multiple of KVBlock.
type KVClass struct {
	Bits   int // of the oldest positions: 0 (float32), 16, 8, 4, 3 or 2
	Group  int // values that share a scale, of 2 to 8 bits: 32, 64 or 128. A channel's keys have 64 at most
	Recent int // of 4, 3 and 2 bits: positions before a query's page that it sees in halves, in whole pages
	Upper  int // bits of a step between halves and Bits; 0 is none
	Far    int // with Upper: positions before a query's page that it does not see in Bits, in whole pages
	Ratio  int // one of so many old positions is kept: 4 or 8; 0 keeps all
	Older  int // with Ratio: positions before a multiple of KVBlock that are kept whole, in whole blocks
}

// ParseKVClass reads "float32", "16", "8", "4", "3" or "2". A group may follow,
// like "4/64", and then positions to which a step does not come, like "4/64@256".
// Two steps are joined: "4@128-3@1024" is 4 bits behind 128 positions and 3 behind
// 1,024. The halves before may be written too: "16-4@128". "+4:1" keeps one of four
// positions, and "+4:1@4096" leaves the last 4,096 whole.
func ParseKVClass(s string) (KVClass, error) {
	form, thinning, thins := strings.Cut(s, "+")
	c, err := parseKVClass(form)
	if err == nil && thins {
		err = c.parseThinning(thinning)
	}
	if err != nil {
		return KVClass{}, fmt.Errorf("%w %q: %s: want float32, 16, 8, 4, 3 or 2, a group besides, like 4/64, what stays finer, like 4@256 or 4@128-3@1024, and what stays of old positions, like 4+4:1 or 4+8:1@4096", ErrKVClass, s, err)
	}
	return c, c.Validate()
}

// parseThinning reads RATIO:1[@POSITIONS].
func (c *KVClass) parseThinning(s string) error {
	s, older, timed := strings.Cut(s, "@")
	ratio, ok := strings.CutSuffix(s, ":1")
	n, err := strconv.Atoi(ratio)
	if !ok || err != nil || n <= 0 {
		return fmt.Errorf("%q is not how many positions become one, like 4:1", s)
	}
	c.Ratio, c.Older = n, (max(c.Recent, c.Far, KVBlock)+KVBlock-1)/KVBlock*KVBlock
	if timed {
		if c.Older, err = strconv.Atoi(older); err != nil || c.Older <= 0 {
			return fmt.Errorf("%q is not a positive number", older)
		}
	}
	return nil
}

func parseKVClass(s string) (c KVClass, err error) {
	if s == "float32" {
		return c, nil
	}
	parts := strings.Split(s, "-")
	fromHalves := len(parts) > 1 && parts[0] == "16"
	if fromHalves {
		parts = parts[1:]
	}
	var steps []KVClass
	for _, part := range parts {
		step, err := parseKVStep(part)
		if err != nil {
			return c, err
		}
		if c.Group != 0 && step.Group != 0 && c.Group != step.Group {
			return c, fmt.Errorf("groups of %d and of %d", c.Group, step.Group)
		}
		c.Group = max(c.Group, step.Group)
		steps = append(steps, step)
	}
	if len(steps) > 2 {
		return c, fmt.Errorf("%d steps, more than 2", len(steps))
	}
	last := steps[len(steps)-1]
	c.Bits, c.Recent = last.Bits, last.Recent
	if len(steps) == 2 {
		c.Upper, c.Recent, c.Far = steps[0].Bits, steps[0].Recent, last.Recent
		if c.Far == 0 {
			return c, errors.New("the second step does not say behind which positions")
		}
	}
	if c.Group == 0 && c.Packed() {
		c.Group = DefaultKVGroup
	}
	if c.Recent == 0 && c.Packed() && c.Bits < 8 {
		c.Recent = DefaultKVRecent
	}
	if fromHalves && !c.Steps() {
		return c, fmt.Errorf("no steps lead to %s", c)
	}
	return c, nil
}

// parseKVStep reads BITS[/GROUP][@POSITIONS].
func parseKVStep(s string) (c KVClass, err error) {
	s, after, timed := strings.Cut(s, "@")
	bits, group, grouped := strings.Cut(s, "/")
	number := func(s string) int {
		n, wrong := strconv.Atoi(s)
		if wrong != nil || n <= 0 {
			err = fmt.Errorf("%q is not a positive number", s)
		}
		return n
	}
	c.Bits = number(bits)
	if grouped {
		c.Group = number(group)
	}
	if timed {
		c.Recent = number(after)
	}
	return c, err
}

// Packed reports whether values become codes in groups.
func (c KVClass) Packed() bool { return c.Bits != 0 && c.Bits != 16 }

// Steps reports whether values step down as they age: then recent pages are held
// in halves besides, and pages are not shared.
func (c KVClass) Steps() bool { return c.Recent != 0 }

// String is what ParseKVClass reads.
func (c KVClass) String() string {
	if c.Ratio != 0 {
		whole := c
		whole.Ratio, whole.Older = 0, 0
		return fmt.Sprintf("%s+%d:1@%d", whole, c.Ratio, c.Older)
	}
	switch {
	case c.Bits == 0:
		return "float32"
	case c.Upper != 0:
		return fmt.Sprintf("%d@%d-%d/%d@%d", c.Upper, c.Recent, c.Bits, c.Group, c.Far)
	case c.Steps():
		return fmt.Sprintf("%d/%d@%d", c.Bits, c.Group, c.Recent)
	case c.Packed():
		return fmt.Sprintf("%d/%d", c.Bits, c.Group)
	}
	return strconv.Itoa(c.Bits)
}

// maxKVRecent bounds the positions of a step.
const maxKVRecent = 1 << 24

// Validate reports what there is not.
func (c KVClass) Validate() error {
	if !slices.Contains([]int{0, 16, 8, 4, 3, 2}, c.Bits) {
		return fmt.Errorf("%w: %d bits: want 16, 8, 4, 3 or 2", ErrKVClass, c.Bits)
	}
	steps := c.Packed() && c.Bits < 8
	switch {
	case !c.Packed() && c.Group != 0:
		return fmt.Errorf("%w: values of %s have no groups", ErrKVClass, KVClass{Bits: c.Bits})
	case c.Packed() && c.Group != 32 && c.Group != 64 && c.Group != 128:
		return fmt.Errorf("%w: groups of %d: want 32, 64 or 128", ErrKVClass, c.Group)
	case !steps && (c.Recent != 0 || c.Upper != 0 || c.Far != 0):
		return fmt.Errorf("%w: values of %s do not step down: only those of 4, 3 or 2 bits do", ErrKVClass, KVClass{Bits: c.Bits, Group: c.Group})
	case steps && (c.Recent < PageTokens || c.Recent%PageTokens != 0 || c.Recent > maxKVRecent):
		return fmt.Errorf("%w: halves for %d positions: want a multiple of %d", ErrKVClass, c.Recent, PageTokens)
	case c.Upper == 0 && c.Far != 0, c.Upper != 0 && (c.Upper > 4 || c.Upper <= c.Bits):
		return fmt.Errorf("%w: a step of %d bits before %d: want 4 or 3, and more than %d", ErrKVClass, c.Upper, c.Bits, c.Bits)
	case c.Upper != 0 && (c.Far <= c.Recent || c.Far%PageTokens != 0 || c.Far > maxKVRecent):
		return fmt.Errorf("%w: %d bits for %d positions: want a multiple of %d above the %d of halves", ErrKVClass, c.Upper, c.Far, PageTokens, c.Recent)
	}
	return c.validateThinning()
}

func (c KVClass) validateThinning() error {
	switch {
	case c.Ratio == 0 && c.Older == 0:
	case c.Bits == 0:
		return fmt.Errorf("%w: float32 keeps all positions: take 16 bits or fewer", ErrKVClass)
	case c.Ratio != 4 && c.Ratio != 8:
		return fmt.Errorf("%w: one of %d positions: want 4 or 8", ErrKVClass, c.Ratio)
	case c.Older < KVBlock || c.Older%KVBlock != 0 || c.Older > maxKVRecent:
		return fmt.Errorf("%w: %d positions stay whole: want a multiple of %d", ErrKVClass, c.Older, KVBlock)
	case c.Older < max(c.Recent, c.Far):
		return fmt.Errorf("%w: %d positions stay whole, and %d finer: want as many at least", ErrKVClass, c.Older, max(c.Recent, c.Far))
	}
	return nil
}

// Thinned returns of how many blocks a row at a position sees only what is kept.
func (c KVClass) Thinned(position int) int {
	if c.Ratio == 0 {
		return 0
	}
	return max(0, (position-c.Older)/KVBlock)
}

// Kept returns the pages that so many thinned blocks take, and how many fewer these
// are than before.
func (c KVClass) Kept(blocks int) (pages, gone int) {
	if blocks == 0 {
		return 0, 0
	}
	pages = blocks * blockPages / c.Ratio
	return pages, blocks*blockPages - pages
}

// Pages returns the most pages that a session needs until it has n positions. Where it
// thins a block that others hold too, what it keeps is a copy beside it.
func (c KVClass) Pages(n int) int {
	at := func(n int) int {
		_, gone := c.Kept(c.Thinned(max(0, n-1)))
		return (n+PageTokens-1)/PageTokens - gone
	}
	last := max(0, n-1) / KVBlock * KVBlock
	if c.Thinned(last) == 0 {
		return at(n)
	}
	kept, _ := c.Kept(1)
	return max(at(n), at(last)+kept)
}

// Cut returns how many of n rows from a position on may be in one step.
func (c KVClass) Cut(position, n int) int {
	if c.Ratio == 0 {
		return n
	}
	return min(n, KVBlock-position%KVBlock)
}

// Shared returns the positions from 0 on that sessions may share: what is thinned is
// a session's own, and so are the rows whose queries choose.
func (c KVClass) Shared() int {
	if c.Ratio == 0 {
		return math.MaxInt
	}
	return c.Older + KVBlock - PageTokens
}

// CheckHead reports whether heads of dim values can be stored so.
func (c KVClass) CheckHead(dim int) error {
	if err := c.Validate(); err != nil {
		return err
	}
	if c.Packed() && dim%c.Group != 0 {
		return fmt.Errorf("%w %s: groups of %d do not divide heads of %d", ErrKVClass, c, c.Group, dim)
	}
	if c.Packed() && !c.Steps() && dim&(dim-1) != 0 {
		return fmt.Errorf("%w %s: heads of %d are no power of two", ErrKVClass, c, dim)
	}
	return nil
}

// KeyGroup is the number of a channel's keys that share a scale, where values step
// down.
func (c KVClass) KeyGroup() int { return min(c.Group, PageTokens) }

// HeadBytes returns what one page takes of one head's keys and values of dim
// channels, in the oldest form.
func (c KVClass) HeadBytes(dim int) int { return c.headBytes(dim, c.Bits) }

func (c KVClass) headBytes(dim, bits int) int {
	n := PageTokens * dim
	switch {
	case bits == 0:
		return 2 * 4 * n
	case bits == 16:
		return 2 * 2 * n
	case c.Steps():
		return 2*n*bits/8 + 4*(n/c.KeyGroup()+n/c.Group)
	}
	return 2 * (n*bits/8 + n/c.Group*4)
}

// KVPools are the pages that a cache holds in finer precision, besides those of
// the oldest form.
type KVPools struct {
	Recent int // in halves
	Upper  int // in codes of KVClass.Upper bits
	// Queries are places for queries of one page, of classes that thin: one for each
	// session.
	Queries int
}

// Pools returns the pages that slots sessions and a step of rows rows need, when
// no session has more than 64 rows that may be taken back. Those of a session are
// the ones that a row may see finer, page 0, the page that is written and one more
// that a step may begin.
func (c KVClass) Pools(slots, rows, pages int) (p KVPools) {
	if c.Steps() {
		p.Recent = min(pages, slots*(c.Recent/PageTokens+3)+rows/PageTokens)
	}
	if c.Upper != 0 {
		p.Upper = min(pages, slots*(c.Far/PageTokens+3)+rows/PageTokens)
	}
	if c.Ratio != 0 {
		p.Queries = slots
	}
	return p
}

// PageBytes returns what a page of one layer takes in the oldest form.
func (s CacheSpec) PageBytes() uint64 { return s.pageBytes(s.Class.Bits) }

// RecentBytes returns what a page of one layer takes in halves.
func (s CacheSpec) RecentBytes() uint64 { return s.pageBytes(16) }

// UpperBytes returns what a page of one layer takes in codes of Class.Upper bits.
func (s CacheSpec) UpperBytes() uint64 { return s.pageBytes(s.Class.Upper) }

// QueryBytes returns what the queries of one page of one layer take, in float32, each
// with the greatest and the sum of its row of scores.
func (s CacheSpec) QueryBytes() uint64 {
	return uint64(s.Heads) * PageTokens * 4 * uint64(s.HeadDim+2)
}

func (s CacheSpec) pageBytes(bits int) uint64 {
	return uint64(s.KVHeads) * uint64(s.Class.headBytes(s.HeadDim, bits))
}

// Bytes returns what a cache of this shape takes, on every backend.
func (s CacheSpec) Bytes() uint64 {
	n := uint64(s.Pages) * s.PageBytes()
	if s.Class.Steps() {
		n += uint64(s.Pools.Recent) * s.RecentBytes()
	}
	if s.Class.Upper != 0 {
		n += uint64(s.Pools.Upper) * s.UpperBytes()
	}
	if s.Class.Ratio != 0 {
		n += uint64(s.Pools.Queries) * s.QueryBytes()
	}
	return uint64(s.Layers) * n
}
