package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
	"github.com/shoal-llm/shoal/services/coordinator/plan/place"
)

func newNodes() *cobra.Command {
	var o operatorOptions
	c := &cobra.Command{
		Use:   "nodes [NODE]",
		Short: "Who is in the cluster, and what each node computes",
		Long: `List the nodes of a running cluster as its coordinator sees them: state, devices
and the layers that they hold. With NODE, also what was measured of it: how long
a layer takes, and the links to others.

States are joining, ready, lost and refused; a node that is ready may still be
set aside, because it was drained or has failed.`,
		Example: `  shoal nodes --cluster-secret-file cluster.key
  shoal nodes old-pc --cluster-secret-file cluster.key --coordinator 10.0.0.2:7700`,
		Args: rangeArgs(0, 1),
		RunE: func(c *cobra.Command, args []string) error {
			r, err := o.cluster(c.Context())
			if err != nil {
				return err
			}
			if len(args) == 1 {
				return printNode(c.OutOrStdout(), r, args[0])
			}
			return printNodes(c.OutOrStdout(), r)
		},
	}
	o.flags(c.Flags())
	return c
}

// printNodes prints a line for each device.
func printNodes(out io.Writer, r *pb.ClusterResponse) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NODE\tSTATE\tDEVICE\tMEMORY\tLAYERS\tVERSION")
	for _, n := range r.GetNodes() {
		state := stateOf(n)
		if len(n.GetDevices()) == 0 {
			fmt.Fprintf(w, "%s\t%s\t-\t-\t-\t%s\n", n.GetNode(), state, n.GetVersion())
		}
		for _, d := range n.GetDevices() {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", n.GetNode(), state, deviceText(d), bytesText(d.GetMemoryBytes()),
				orDash(layersOn(r, n.GetNode(), d.GetIndex())), n.GetVersion())
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, n := range r.GetNodes() {
		if why := reasonOf(n); why != "" {
			fmt.Fprintf(out, "%s: %s\n", n.GetNode(), why)
		}
	}
	return nil
}

// printNode prints what is known of one node.
func printNode(out io.Writer, r *pb.ClusterResponse, name string) error {
	i := slices.IndexFunc(r.GetNodes(), func(n *pb.NodeInfo) bool { return n.GetNode() == name })
	if i < 0 {
		var names []string
		for _, n := range r.GetNodes() {
			names = append(names, n.GetNode())
		}
		return fmt.Errorf("no node is called %q; there are %s", name, orDash(strings.Join(names, ", ")))
	}
	n := r.GetNodes()[i]
	fmt.Fprintf(out, "%s at %s: %s", n.GetNode(), n.GetAddress(), stateOf(n))
	if why := reasonOf(n); why != "" {
		fmt.Fprintf(out, ", %s", why)
	}
	fmt.Fprintf(out, "\nversion %s\n", n.GetVersion())
	for _, d := range n.GetDevices() {
		fmt.Fprintf(out, "device %d: %s, %s usable, class %s, layers %s\n", d.GetIndex(), deviceText(d), bytesText(d.GetMemoryBytes()),
			d.GetNumericsClass(), orDash(layersOn(r, name, d.GetIndex())))
		for _, s := range n.GetSpeeds() {
			if s.GetDevice() == d.GetIndex() {
				printSpeed(out, s)
			}
		}
	}
	for _, l := range r.GetLinks() {
		if l.GetFrom() == name {
			fmt.Fprintf(out, "link to %s: %s one way, %.0f MB/s\n", l.GetTo(), place.Duration(l.GetDelaySeconds()), l.GetRate()/1e6)
		}
	}
	return nil
}

func printSpeed(out io.Writer, s *pb.DeviceSpeed) {
	if s.GetBandwidth() > 0 {
		fmt.Fprintf(out, "  memory is read at %.1f GB/s\n", s.GetBandwidth()/1e9)
	}
	for _, v := range s.GetShapes() {
		what := "layer"
		if strings.HasPrefix(v.GetShape(), "head:") {
			what = "head"
		}
		fmt.Fprintf(out, "  %s %s: %s for a token, %s for each further row of a step\n",
			what, v.GetShape(), place.Duration(v.GetFixed()+v.GetRow()), place.Duration(v.GetRow()))
	}
}

// stateOf is the state of a node in a word or two.
func stateOf(n *pb.NodeInfo) string {
	if n.GetState() == "ready" && n.GetAside() != "" {
		return "set aside"
	}
	return n.GetState()
}

// reasonOf is why a node is not in use.
func reasonOf(n *pb.NodeInfo) string {
	if n.GetAside() != "" {
		return n.GetAside()
	}
	return n.GetReason()
}

func deviceText(d *pb.Device) string {
	text := d.GetName()
	if text == "" {
		text = d.GetKind()
	}
	if d.GetThreads() > 0 {
		text += fmt.Sprintf(", %d threads", d.GetThreads())
	}
	return text
}

// layersOn lists the layers that a device holds, by pipeline.
func layersOn(r *pb.ClusterResponse, node string, device uint32) string {
	var out []string
	for _, p := range r.GetPipelines() {
		for _, s := range p.GetPipeline().GetStages() {
			if s.GetNode() == node && s.GetDevice() == device {
				out = append(out, stageText(s))
			}
		}
	}
	for _, s := range r.GetSpares() {
		if s.GetNode() == node && s.GetDevice() == device {
			out = append(out, stageText(s)+" in reserve")
		}
	}
	return strings.Join(out, ", ")
}

// stageText names a stage's layers: "0-14".
func stageText(s *pb.Stage) string { return fmt.Sprintf("%d-%d", s.GetFirst(), s.GetEnd()-1) }

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
