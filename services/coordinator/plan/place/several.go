package place

import "fmt"

// Request is a model to place, with wishes of its own. Wishes.Memory is its
// budget on each device.
type Request struct {
	Model  *Model
	Wishes Wishes
}

// PlaceAll places several models on one cluster, each after the other: a device
// has for each what those before have left, and no more than the model's budget.
// The error names the first model that does not fit.
func PlaceAll(requests []Request, c *Cluster) ([]*Placement, error) {
	left := &Cluster{Devices: append([]Device(nil), c.Devices...), Links: c.Links}
	var out []*Placement
	for _, r := range requests {
		now := &Cluster{Devices: append([]Device(nil), left.Devices...), Links: c.Links}
		p, err := Place(r.Model, now, r.Wishes)
		if err != nil {
			if len(out) > 0 {
				err = fmt.Errorf("after %d other %s: %w", len(out), plural(len(out), "model"), err)
			}
			return out, err
		}
		out = append(out, p)
		left.take(p)
	}
	return out, nil
}

// take leaves what a placement uses to nobody else.
func (c *Cluster) take(p *Placement) {
	for _, pipe := range p.Pipelines {
		for _, s := range pipe.Stages {
			for i := range c.Devices {
				if d := &c.Devices[i]; d.ID() == s.Device.ID() {
					d.Memory -= min(d.Memory, s.Bytes)
				}
			}
		}
	}
}
