//go:build cgo && ((linux && amd64) || darwin || (windows && amd64))

package webgpu

import "github.com/shoal-llm/shoal/pkg/compute"

// lacks are the operations without a kernel: models that need them are refused
// before they are loaded, so a pass that has one nevertheless fails.
const lacks = compute.AllFeatures

func (p *pass) unsupported(f compute.Features) {
	if p.err == nil {
		p.err = &unsupported{f}
	}
}

// unsupported is the error of a pass with an operation that has no kernel.
type unsupported struct{ feature compute.Features }

// Error names the operation.
func (e *unsupported) Error() string {
	return compute.ErrUnsupported.Error() + ": " + e.feature.String()
}

// Unwrap returns compute.ErrUnsupported.
func (e *unsupported) Unwrap() error { return compute.ErrUnsupported }

// Scale has no kernel.
func (p *pass) Scale(compute.Buffer, float32) { p.unsupported(compute.FeatureScale) }

// AddBias has no kernel.
func (p *pass) AddBias([]compute.Buffer, []compute.Vector) { p.unsupported(compute.FeatureBias) }

// NormHeads has no kernel.
func (p *pass) NormHeads([]compute.Buffer, []compute.Vector, float32) {
	p.unsupported(compute.FeatureHeadNorm)
}

// Linear has no kernel.
func (p *pass) Linear(compute.Buffer, compute.Weight, compute.Buffer) {
	p.unsupported(compute.FeatureNormAdd)
}

// NormAdd has no kernel.
func (p *pass) NormAdd(compute.Buffer, compute.Buffer, compute.Vector, float32) {
	p.unsupported(compute.FeatureNormAdd)
}

// SoftCap has no kernel.
func (p *pass) SoftCap(compute.Buffer, int, float32) { p.unsupported(compute.FeatureSoftCap) }

// AddExperts has no kernel.
func (p *pass) AddExperts(compute.Buffer, compute.Vector, float32, *compute.Experts) {
	p.unsupported(compute.FeatureExperts)
}
