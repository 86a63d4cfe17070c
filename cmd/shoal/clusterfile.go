package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/knadh/koanf/parsers/yaml"

	"github.com/shoal-llm/shoal/services/coordinator/plan/place"
)

// clusterFile is a cluster as a file describes it, for `shoal plan --cluster`.
type clusterFile struct {
	Devices []deviceFile `json:"devices"`
	Link    linkFile     `json:"link"`            // between nodes that links does not name
	Links   []linkFile   `json:"links,omitempty"` // of directions
}

// deviceFile is a device, or Count like ones on nodes of their own.
type deviceFile struct {
	Node      string               `json:"node"`
	Index     int                  `json:"index,omitempty"`
	Count     int                  `json:"count,omitempty"`
	Name      string               `json:"name,omitempty"`
	Class     string               `json:"class,omitempty"`
	Memory    fileSize             `json:"memory"`
	Bandwidth fileSize             `json:"bandwidth,omitempty"` // a second
	Pass      fileTime             `json:"pass,omitempty"`
	Turn      fileTime             `json:"turn,omitempty"`
	Layer     *speedFile           `json:"layer,omitempty"` // any layer of the model
	Head      *speedFile           `json:"head,omitempty"`
	Shapes    map[string]speedFile `json:"shapes,omitempty"` // as `shoal plan --save` writes them
}

// speedFile is a fixed time, that of each row, and that of each row and each
// position before it.
type speedFile struct {
	Fixed fileTime `json:"fixed"`
	Row   fileTime `json:"row"`
	Key   fileTime `json:"key,omitempty"`
}

type linkFile struct {
	From  string   `json:"from,omitempty"`
	To    string   `json:"to,omitempty"`
	Delay fileTime `json:"delay"`
	Rate  fileSize `json:"rate,omitempty"` // a second
}

// fileSize is written as 16GiB, or 16GiB/s for rates.
type fileSize uint64

// UnmarshalJSON reads a size.
func (s *fileSize) UnmarshalJSON(b []byte) error {
	text := strings.Trim(string(b), `"`)
	n, err := parseBytes(strings.TrimSuffix(text, "/s"))
	*s = fileSize(n)
	return err
}

// MarshalJSON writes a size to the byte.
func (s fileSize) MarshalJSON() ([]byte, error) { return json.Marshal(fmt.Sprintf("%dB", uint64(s))) }

// fileTime is seconds, written as 1.5ms.
type fileTime float64

// UnmarshalJSON reads a duration.
func (t *fileTime) UnmarshalJSON(b []byte) error {
	text := strings.Trim(string(b), `"`)
	if text == "0" {
		*t = 0
		return nil
	}
	var n float64
	var unit string
	if _, err := fmt.Sscanf(text, "%g%s", &n, &unit); err != nil || n < 0 {
		return fmt.Errorf("%q is not a time; write for example 1.5ms", text)
	}
	one, err := time.ParseDuration("1" + unit)
	if err != nil {
		return fmt.Errorf("%q is not a time; write for example 1.5ms", text)
	}
	*t = fileTime(n * one.Seconds())
	return nil
}

// MarshalJSON writes a duration in microseconds, with the fractions that the
// share of a row has.
func (t fileTime) MarshalJSON() ([]byte, error) {
	return json.Marshal(fmt.Sprintf("%.6gus", float64(t)*1e6))
}

// readCluster reads a file and checks that it makes sense.
func readCluster(path string) (*clusterFile, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("--cluster: %w", err)
	}
	tree, err := yaml.Parser().Unmarshal(b)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	if b, err = json.Marshal(tree); err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	var f clusterFile
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&f); err != nil {
		return nil, fmt.Errorf("read %s: %s", path, strings.TrimPrefix(err.Error(), "json: "))
	}
	if len(f.Devices) == 0 {
		return nil, fmt.Errorf("read %s: it lists no devices", path)
	}
	seen := map[string]bool{}
	for _, d := range f.Devices {
		id := fmt.Sprintf("%s/%d", d.Node, d.Index)
		switch {
		case d.Node == "":
			return nil, fmt.Errorf("read %s: a device without a node", path)
		case seen[id]:
			return nil, fmt.Errorf("read %s: device %s is there twice", path, id)
		case d.Count < 0 || d.Count > 1024:
			return nil, fmt.Errorf("read %s: device %s: count %d, want 1 to 1024", path, id, d.Count)
		}
		seen[id] = true
	}
	return &f, nil
}

// place is the cluster as m meets it.
func (f *clusterFile) place(m *place.Model) *place.Cluster {
	c := &place.Cluster{Links: place.Links{Default: f.Link.link(), Between: map[place.Direction]place.Link{}}}
	for _, d := range f.Devices {
		for i := range max(d.Count, 1) {
			device := place.Device{
				Node: d.Node, Index: d.Index, Name: d.Name, Class: d.Class, Memory: uint64(d.Memory),
				Bandwidth: float64(d.Bandwidth), Pass: float64(d.Pass), Turn: float64(d.Turn), Speeds: d.speeds(m),
			}
			if d.Count > 1 {
				device.Node = fmt.Sprintf("%s-%d", d.Node, i+1)
			}
			c.Devices = append(c.Devices, device)
		}
	}
	for _, l := range f.Links {
		c.Links.Between[place.Direction{From: l.From, To: l.To}] = l.link()
	}
	return c
}

func (l linkFile) link() place.Link {
	return place.Link{Delay: float64(l.Delay), Rate: float64(l.Rate)}
}

func (s speedFile) speed() place.Speed {
	return place.Speed{Fixed: float64(s.Fixed), Row: float64(s.Row), Key: float64(s.Key)}
}

// speeds are those of named shapes, and those of layer and head for all others.
func (d *deviceFile) speeds(m *place.Model) map[string]place.Speed {
	out := map[string]place.Speed{}
	if d.Layer != nil {
		for i := range m.Layers {
			out[m.Layers[i].Shape] = d.Layer.speed()
		}
	}
	if d.Head != nil {
		out[m.HeadShape] = d.Head.speed()
	}
	for shape, s := range d.Shapes {
		out[shape] = s.speed()
	}
	return out
}

// saveCluster writes what is known of a cluster to a file that readCluster reads.
func saveCluster(path string, c *place.Cluster) error {
	f := clusterFile{}
	for _, d := range c.Devices {
		entry := deviceFile{
			Node: d.Node, Index: d.Index, Name: d.Name, Class: d.Class, Memory: fileSize(d.Memory), Bandwidth: fileSize(d.Bandwidth),
			Pass: fileTime(d.Pass), Turn: fileTime(d.Turn), Shapes: map[string]speedFile{},
		}
		for shape, s := range d.Speeds {
			entry.Shapes[shape] = speedFile{fileTime(s.Fixed), fileTime(s.Row), fileTime(s.Key)}
		}
		f.Devices = append(f.Devices, entry)
	}
	for _, dir := range slices.SortedFunc(maps.Keys(c.Links.Between), func(a, b place.Direction) int {
		return strings.Compare(a.From+"\x00"+a.To, b.From+"\x00"+b.To)
	}) {
		l := c.Links.Between[dir]
		f.Links = append(f.Links, linkFile{From: dir.From, To: dir.To, Delay: fileTime(l.Delay), Rate: fileSize(l.Rate)})
	}
	b, err := json.Marshal(f)
	if err != nil {
		return err
	}
	var tree map[string]any
	if err := json.Unmarshal(b, &tree); err != nil {
		return err
	}
	text, err := yaml.Parser().Marshal(tree)
	if err != nil {
		return fmt.Errorf("--save %s: %w", path, err)
	}
	return os.WriteFile(path, text, 0o644)
}
