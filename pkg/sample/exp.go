package sample

import "math"

// The exponential and the logarithm are written here because their bits decide
// which token is chosen: the standard library takes other paths on other
// processors, and a compiler may fuse a*b+c. Every product below is converted
// explicitly, which the Go specification defines as a rounding, so the results
// have the same bits everywhere.

const (
	expInvStep = 0x1.71547652b82fep+6  // 64 / ln 2
	expStepHi  = 0x1.62e42fee00000p-7  // ln 2 / 64, upper bits: exact times any |k| < 2^21
	expStepLo  = 0x1.a39ef35793c76p-39 // ln 2 / 64 - expStepHi

	ln2Hi = 0x1.62e42fee00000p-1  // ln 2, upper bits: exact times any exponent
	ln2Lo = 0x1.a39ef35793c76p-33 // ln 2 - ln2Hi

	expOverflow  = 709.782712893384
	expUnderflow = -745.1332191019412
	roundMagic   = 0x1.8p52 // adding and subtracting it rounds to an integer
)

// exp2Table holds 2^(j/64) for j = 0..63.
var exp2Table = [64]float64{
	0x1.0000000000000p+0, 0x1.02c9a3e778061p+0, 0x1.059b0d3158574p+0, 0x1.0874518759bc8p+0,
	0x1.0b5586cf9890fp+0, 0x1.0e3ec32d3d1a2p+0, 0x1.11301d0125b51p+0, 0x1.1429aaea92de0p+0,
	0x1.172b83c7d517bp+0, 0x1.1a35beb6fcb75p+0, 0x1.1d4873168b9aap+0, 0x1.2063b88628cd6p+0,
	0x1.2387a6e756238p+0, 0x1.26b4565e27cddp+0, 0x1.29e9df51fdee1p+0, 0x1.2d285a6e4030bp+0,
	0x1.306fe0a31b715p+0, 0x1.33c08b26416ffp+0, 0x1.371a7373aa9cbp+0, 0x1.3a7db34e59ff7p+0,
	0x1.3dea64c123422p+0, 0x1.4160a21f72e2ap+0, 0x1.44e086061892dp+0, 0x1.486a2b5c13cd0p+0,
	0x1.4bfdad5362a27p+0, 0x1.4f9b2769d2ca7p+0, 0x1.5342b569d4f82p+0, 0x1.56f4736b527dap+0,
	0x1.5ab07dd485429p+0, 0x1.5e76f15ad2148p+0, 0x1.6247eb03a5585p+0, 0x1.6623882552225p+0,
	0x1.6a09e667f3bcdp+0, 0x1.6dfb23c651a2fp+0, 0x1.71f75e8ec5f74p+0, 0x1.75feb564267c9p+0,
	0x1.7a11473eb0187p+0, 0x1.7e2f336cf4e62p+0, 0x1.82589994cce13p+0, 0x1.868d99b4492edp+0,
	0x1.8ace5422aa0dbp+0, 0x1.8f1ae99157736p+0, 0x1.93737b0cdc5e5p+0, 0x1.97d829fde4e50p+0,
	0x1.9c49182a3f090p+0, 0x1.a0c667b5de565p+0, 0x1.a5503b23e255dp+0, 0x1.a9e6b5579fdbfp+0,
	0x1.ae89f995ad3adp+0, 0x1.b33a2b84f15fbp+0, 0x1.b7f76f2fb5e47p+0, 0x1.bcc1e904bc1d2p+0,
	0x1.c199bdd85529cp+0, 0x1.c67f12e57d14bp+0, 0x1.cb720dcef9069p+0, 0x1.d072d4a07897cp+0,
	0x1.d5818dcfba487p+0, 0x1.da9e603db3285p+0, 0x1.dfc97337b9b5fp+0, 0x1.e502ee78b3ff6p+0,
	0x1.ea4afa2a490dap+0, 0x1.efa1bee615a27p+0, 0x1.f50765b6e4540p+0, 0x1.fa7c1819e90d8p+0,
}

// exp returns e^x within 2 units in the last place. It reduces x to
// k*ln2/64 + r (Tang, Table-driven implementation of the exponential function
// in IEEE floating-point arithmetic, 1989) and takes a polynomial of degree 5
// in r. NaN gives NaN, and results below the subnormals give 0.
func exp(x float64) float64 {
	if !(x > expUnderflow) { // NaN comes here too
		if x != x {
			return x
		}
		return 0
	}
	if x > expOverflow {
		return math.Inf(1)
	}
	k := float64(x*expInvStep) + roundMagic - roundMagic
	r := x - float64(k*expStepHi)
	r -= float64(k * expStepLo)

	q := 1.0/24 + float64(r*(1.0/120))
	q = 1.0/6 + float64(r*q)
	q = 0.5 + float64(r*q)
	p := r + float64(float64(r*r)*q)

	n := int(k)
	t := exp2Table[n&63]
	return scale(t+float64(t*p), n>>6)
}

// Exp returns e^x, with the same bits on every processor: that of exp.
func Exp(x float64) float64 { return exp(x) }

// expRow writes e^((v - peak) * inverse) for every v of a row into dst and
// returns their sum in order. No v exceeds peak. The body is that of exp, written
// out for speed; where the power of two is not normal, exp itself is called.
func expRow(dst []float64, row []float32, peak float32, inverse float64) float64 {
	total, top := 0.0, float64(peak)
	dst = dst[:len(row)]
	for i, v := range row {
		x := float64((float64(v) - top) * inverse)
		if !(x > -708) {
			w := exp(x)
			dst[i] = w
			total += w
			continue
		}
		shifted := float64(x*expInvStep) + roundMagic
		k := shifted - roundMagic
		r := x - float64(k*expStepHi)
		r -= float64(k * expStepLo)
		rr := float64(r * r)
		q := 1.0/24 + float64(r*(1.0/120))
		q = 1.0/6 + float64(r*q)
		q = 0.5 + float64(r*q)
		p := r + float64(rr*q)
		n := int32(uint32(math.Float64bits(shifted)))
		t := exp2Table[n&63]
		w := float64((t + float64(t*p)) * math.Float64frombits(uint64(n>>6+1023)<<52))
		dst[i] = w
		total += w
	}
	return total
}

// scale returns y * 2^e for y in [1, 2] and results up to the largest float64.
func scale(y float64, e int) float64 {
	if e > -1022 && e < 1023 {
		return y * math.Float64frombits(uint64(e+1023)<<52)
	}
	if e >= 1023 {
		return y * 2 * math.Float64frombits(uint64(e-1+1023)<<52)
	}
	return y * math.Float64frombits(uint64(e+64+1023)<<52) * 0x1p-64
}

// logarithm returns ln x within 2 units in the last place for finite x > 0,
// by the series of the inverse hyperbolic tangent.
func logarithm(x float64) float64 {
	m, e := math.Frexp(x)
	if m < math.Sqrt2/2 {
		m *= 2
		e--
	}
	f := m - 1
	s := f / (m + 1)
	z := float64(s * s)
	q := 0.0
	for n := 23; n >= 3; n -= 2 {
		q = 1/float64(n) + float64(z*q)
	}
	// ln m = 2s + 2s*z*q, and 2s = f - s*f keeps the low bits of f.
	tail := float64(float64(2*s)*float64(z*q)) - float64(s*f)
	k := float64(e)
	return float64(k*ln2Hi) + (f + (tail + float64(k*ln2Lo)))
}
