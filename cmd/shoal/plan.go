package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/shoal-llm/shoal/internal/library"
	"github.com/shoal-llm/shoal/services/coordinator"
	"github.com/shoal-llm/shoal/services/coordinator/plan/place"
)

// planOptions are the flags of `shoal plan`.
type planOptions struct {
	kv       kvFlag
	recipe   recipeFlag
	operator operatorOptions
	place    placeOptions
	models   string
	weights  weightOptions
	cluster  string
	save     string
	target   float64
}

func newPlan() *cobra.Command {
	var o planOptions
	c := &cobra.Command{
		Use:   "plan MODEL...",
		Short: "Who would compute what, how fast, and why",
		Long: `Say how a cluster would run MODEL: which device gets which layers, why others get
none, how long the first token and each further one are predicted to take and
where that time goes, and when one machine alone would be faster. With --target,
what to add to reach so many tokens a second. Nothing is changed.

The cluster is a running one (--cluster-secret-file), with what was measured of
its devices and links, or a file (--cluster), with machines that you only think
of buying:

  devices:
    - node: desk
      memory: 64GiB
      bandwidth: 60GB/s            # of its memory; or measured times:
    - node: rack
      count: 4                     # rack-1 to rack-4
      memory: 24GiB
      layer: {fixed: 0.9ms, row: 12us}   # of a step: once, and for each row
      head:  {fixed: 0.5ms, row: 50us}
  link: {delay: 150us, rate: 110MB/s}    # one way, between any two nodes
  links:
    - {from: desk, to: rack-1, delay: 4ms, rate: 12MB/s}

Several models share the cluster; --model-mem is the budget of each.`,
		Example: `  shoal plan ./model.gguf --cluster home.yaml
  shoal plan ./model.gguf --cluster home.yaml --objective throughput --streams 32 --target 400
  shoal plan tiny --cluster-secret-file cluster.key --save cluster.yaml`,
		Args: func(c *cobra.Command, args []string) error {
			const most = 16
			return rangeArgs(1, most)(c, args)
		},
		RunE: func(c *cobra.Command, args []string) error { return o.run(c, args) },
	}
	f := c.Flags()
	o.operator.flags(f)
	o.place.flags(f)
	f.StringVar(&o.models, "models", "", "folder of GGUF files")
	o.kv.flags(f)
	o.recipe.flags(f)
	o.weights.flags(f)
	f.StringVar(&o.cluster, "cluster", "", "YAML file that describes a cluster, instead of a running one")
	f.StringVar(&o.save, "save", "", "write the running cluster as measured to a file for --cluster")
	f.Float64Var(&o.target, "target", 0, "tokens a second to reach: say what to add")
	w := &o.place.wishes
	f.IntVar(&w.Stages, "stages", 0, "stages of a pipeline, exactly; 0 is as many as are best")
	f.IntVar(&w.Sessions, "sessions", coordinator.Default().Wishes.Sessions, "answers of full context length that the KV cache must hold at once")
	f.IntVar(&w.Context, "context", 0, "positions of a session; 0 is the model's own")
	f.IntVar(&w.Rows, "rows", coordinator.Default().Wishes.Rows, "rows of a step: decodes and prefill together")
	f.IntVar(&w.Prompt, "prompt", 128, "tokens of the prompt that predictions are for")
	return c
}

func (o *planOptions) run(c *cobra.Command, names []string) (err error) {
	fail := func(err error) error { return usageError{c.CommandPath(), err} }
	w, err := o.place.complete()
	if err != nil {
		return fail(err)
	}
	switch {
	case o.target < 0:
		return fail(fmt.Errorf("--target %g: want 0 (none) or more", o.target))
	case o.cluster == "" && !o.operator.identity.known():
		return fail(errors.New("which cluster? Give --cluster FILE.yaml, or --cluster-secret-file and --coordinator of a running one"))
	case o.cluster != "" && o.save != "":
		return fail(errors.New("--save writes a running cluster to a file; --cluster reads one"))
	}
	found, err := o.weights.open(library.Library{Dir: o.models}, newLogger(c))
	if err != nil {
		return fail(err)
	}
	defer func() { err = errors.Join(err, found.close()) }()
	var requests []place.Request
	for _, name := range names {
		m, err := o.facts(c, found, name)
		if err != nil {
			return err
		}
		requests = append(requests, place.Request{Model: m, Wishes: w})
	}
	cluster, err := o.clusterFor(c, requests)
	if err != nil {
		return err
	}
	placements, err := place.PlaceAll(requests, cluster)
	for _, p := range placements {
		o.print(c.OutOrStdout(), p)
	}
	if o.target > 0 {
		return errors.Join(err, o.reach(c.OutOrStdout(), requests, cluster))
	}
	return err
}

// facts weighs a model; of one that would have to be fetched, what lies before its
// weights is enough.
func (o *planOptions) facts(c *cobra.Command, found *models, name string) (*place.Model, error) {
	m, err := found.open(c.Context(), name, false, newShown(c.ErrOrStderr()))
	if err != nil {
		return nil, err
	}
	if m.Model, err = o.recipe.apply(m.Model, c.ErrOrStderr()); err != nil {
		return nil, errors.Join(err, m.Close())
	}
	facts, err := coordinator.PlaceModel(m.Model, o.kv.KVClass, coordinator.Default().Wishes.Slots, o.place.wishes.Rows)
	return facts, errors.Join(err, m.Close())
}

// clusterFor reads the cluster from the file, or asks the running one.
func (o *planOptions) clusterFor(c *cobra.Command, requests []place.Request) (*place.Cluster, error) {
	if o.cluster != "" {
		f, err := readCluster(o.cluster)
		if err != nil {
			return nil, err
		}
		cluster := f.place(requests[0].Model)
		for _, r := range requests[1:] {
			for i, d := range f.place(r.Model).Devices {
				for shape, s := range d.Speeds {
					cluster.Devices[i].Speeds[shape] = s
				}
			}
		}
		return cluster, nil
	}
	report, err := o.operator.cluster(c.Context())
	if err != nil {
		return nil, err
	}
	cluster := coordinator.PlaceCluster(report)
	if o.save != "" {
		return cluster, saveCluster(o.save, cluster)
	}
	return cluster, nil
}

func (o *planOptions) print(out io.Writer, p *place.Placement) {
	fmt.Fprintf(out, "model %s: %d layers, %s of weights\n", p.Model.Name, len(p.Model.Layers), place.Size(p.Model.Weights()))
	fmt.Fprint(out, p.Explain())
}

// reach prints what each model needs to be as fast as is wished.
func (o *planOptions) reach(out io.Writer, requests []place.Request, cluster *place.Cluster) error {
	for _, r := range requests {
		text, err := place.Reach(r.Model, cluster, r.Wishes, o.target)
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "for %s of %s: %s\n", place.Rate(o.target), r.Model.Name, text)
	}
	return nil
}
