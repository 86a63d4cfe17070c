package grammar

import (
	"errors"
	"math/big"
	"strconv"
	"strings"
)

// Bounds of the numbers that are written: 15 digits are exact in a float64.
const (
	maxDigits   = 15
	maxExponent = 2 // digits
	maxInteger  = 1_000_000_000_000_000 - 1
)

var digit = bytesOf('0', '9')

var errNumber = errors.New("number out of range")

// parseNumber reads a JSON number whose size is bounded.
func parseNumber(text string) (*big.Rat, error) {
	if len(text) > 64 {
		return nil, errNumber
	}
	if i := strings.IndexAny(text, "eE"); i >= 0 {
		e, err := strconv.Atoi(text[i+1:])
		if err != nil || e < -64 || e > 64 {
			return nil, errNumber
		}
	}
	r, ok := new(big.Rat).SetString(text)
	if !ok {
		return nil, errNumber
	}
	return r, nil
}

func (c *compiler) digits(least, most int, next int32) int32 {
	rule := c.shared("digit", func(ret int32) int32 { return c.one(digit, ret) })
	return c.repeat(rule, least, most, next)
}

// integer is any integer.
func (c *compiler) integer(next int32) int32 {
	return c.maybe("-", c.either(
		c.literal("0", next),
		c.one(bytesOf('1', '9'), c.digits(0, maxDigits-1, next))))
}

// number is any number.
func (c *compiler) number(next int32) int32 {
	exponent := c.one(bytesOf('e', 'e', 'E', 'E'),
		c.either(c.digits(1, maxExponent, next), c.one(bytesOf('+', '+', '-', '-'), c.digits(1, maxExponent, next))))
	tail := c.either(next, exponent)
	return c.integer(c.either(tail, c.literal(".", c.digits(1, maxDigits, tail))))
}

// bounds is an interval of numbers; nil is no bound.
type bounds struct {
	low, high         *big.Rat
	openLow, openHigh bool // the bound itself is excluded
}

func (b *bounds) any() bool { return b.low != nil || b.high != nil }

// raise and lower tighten the interval.
func (b *bounds) raise(v *big.Rat, open bool) {
	if b.low == nil || v.Cmp(b.low) > 0 || v.Cmp(b.low) == 0 && open {
		b.low, b.openLow = v, open
	}
}

func (b *bounds) lower(v *big.Rat, open bool) {
	if b.high == nil || v.Cmp(b.high) < 0 || v.Cmp(b.high) == 0 && open {
		b.high, b.openHigh = v, open
	}
}

// clamp gives the interval two ends, those of the numbers that are written.
func (b bounds) clamp() bounds {
	b.raise(big.NewRat(-maxInteger, 1), false)
	b.lower(big.NewRat(maxInteger, 1), false)
	return b
}

// negated is the interval of the negated numbers.
func (b bounds) negated() bounds {
	return bounds{low: new(big.Rat).Neg(b.high), high: new(big.Rat).Neg(b.low), openLow: b.openHigh, openHigh: b.openLow}
}

// integers returns the first and last integer of a clamped interval.
func (b bounds) integers() (first, last int64) {
	up := new(big.Rat).Neg(b.low)
	first, last = -floor(up), floor(b.high)
	if b.openLow && b.low.IsInt() {
		first++
	}
	if b.openHigh && b.high.IsInt() {
		last--
	}
	return first, last
}

// floor is that of a number of a clamped interval: it fits.
func floor(r *big.Rat) int64 { return new(big.Int).Div(r.Num(), r.Denom()).Int64() }

// integerIn is an integer of an interval. ok is false when there is none.
func (c *compiler) integerIn(b bounds, next int32) (entry int32, ok bool) {
	b = b.clamp()
	if b.low.Cmp(b.high) > 0 {
		return 0, false
	}
	first, last := b.integers()
	var ways []int32
	if last >= 0 && first <= last {
		ways = append(ways, c.count(max(first, 0), last, next))
	}
	if first < 0 && first <= last {
		ways = append(ways, c.literal("-", c.count(max(-last, 1), -first, next)))
	}
	if len(ways) == 0 {
		return 0, false
	}
	return c.either(ways...), true
}

// numberIn is a number of an interval. ok is false when none can be written.
func (c *compiler) numberIn(b bounds, next int32) (entry int32, ok bool) {
	b = b.clamp()
	if b.low.Cmp(b.high) > 0 {
		return 0, false
	}
	zero := new(big.Rat)
	var ways []int32
	if b.high.Sign() >= 0 {
		up := b
		up.raise(zero, false)
		ways = c.magnitudes(up, ways, next)
	}
	if b.low.Sign() < 0 {
		down := b.negated()
		down.raise(zero, false)
		var under []int32
		if under = c.magnitudes(down, nil, next); len(under) > 0 {
			ways = append(ways, c.literal("-", c.either(under...)))
		}
	}
	if len(ways) == 0 {
		return 0, false
	}
	return c.either(ways...), true
}

// magnitudes appends the ways to write a number that is not negative.
func (c *compiler) magnitudes(b bounds, ways []int32, next int32) []int32 {
	first, last := b.integers()
	if first <= last {
		ways = append(ways, c.count(first, last, next))
	}
	// A fraction may follow every integer below the last; behind the very first,
	// where that is excluded itself, one that is not zero.
	if first < last {
		ways = append(ways, c.count(first, last-1, c.literal(".", c.digits(1, maxDigits, next))))
	}
	if low := floor(b.low); b.openLow && b.low.IsInt() && low < last {
		ways = append(ways, c.count(low, low, c.literal(".", c.one(bytesOf('1', '9'), c.digits(0, maxDigits-1, next)))))
	}
	if first > last {
		ways = c.fraction(b, ways, next)
	}
	return ways
}

// fractionDigits is how fine an interval between two integers is divided.
const fractionDigits = 6

// fraction appends the ways to write a number of an interval that holds no
// integer, with a fixed number of digits.
func (c *compiler) fraction(b bounds, ways []int32, next int32) []int32 {
	whole := floor(b.low)
	scale := big.NewRat(1_000_000, 1)
	base := big.NewRat(whole, 1)
	in := bounds{openLow: b.openLow, openHigh: b.openHigh}
	in.low = new(big.Rat).Mul(new(big.Rat).Sub(b.low, base), scale)
	in.high = new(big.Rat).Mul(new(big.Rat).Sub(b.high, base), scale)
	first, last := in.integers()
	last = min(last, 999_999)
	if first > last {
		return ways
	}
	return append(ways, c.count(whole, whole, c.literal(".", c.fixed(pad(first), pad(last), next))))
}

func pad(n int64) string {
	s := strconv.FormatInt(n, 10)
	return strings.Repeat("0", fractionDigits-len(s)) + s
}

// count is an integer from first to last, neither negative.
func (c *compiler) count(first, last int64, next int32) int32 {
	var ways []int32
	for first <= last {
		low := strconv.FormatInt(first, 10)
		end := int64(9) // the last number of as many digits
		for range len(low) - 1 {
			end = end*10 + 9
		}
		ways = append(ways, c.fixed(low, strconv.FormatInt(min(end, last), 10), next))
		first = end + 1
	}
	return c.either(ways...)
}

// fixed is a number of exactly len(low) = len(high) digits from low to high.
func (c *compiler) fixed(low, high string, next int32) int32 {
	switch {
	case low == "":
		return next
	case low == high:
		return c.literal(low, next)
	case strings.Trim(low, "0") == "" && strings.Trim(high, "9") == "":
		return c.digits(len(low), len(low), next)
	case low[0] == high[0]:
		return c.literal(low[:1], c.fixed(low[1:], high[1:], next))
	}
	n := len(low) - 1
	from, to := low[0], high[0]
	var ways []int32
	if strings.Trim(low[1:], "0") != "" {
		ways = append(ways, c.literal(low[:1], c.fixed(low[1:], strings.Repeat("9", n), next)))
		from++
	}
	if strings.Trim(high[1:], "9") != "" {
		ways = append(ways, c.literal(high[:1], c.fixed(strings.Repeat("0", n), high[1:], next)))
		to--
	}
	if from <= to {
		ways = append(ways, c.one(bytesOf(from, to), c.digits(n, n, next)))
	}
	return c.either(ways...)
}
