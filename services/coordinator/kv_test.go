package coordinator

import (
	"errors"
	"strings"
	"testing"

	"github.com/shoal-llm/shoal/internal/library"
	"github.com/shoal-llm/shoal/pkg/compute"
	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
	"github.com/shoal-llm/shoal/services/coordinator/plan"
)

// TestKVOptions: what is loaded is accepted, all else refused by name, and the
// refusal says what is loaded.
func TestKVOptions(t *testing.T) {
	on, off, whole, odd := true, false, uint32(1024), uint32(1000)
	thin := compute.KVClass{Bits: 16, Ratio: 4, Older: 1024}
	f32, half, four := compute.KVClass{}, compute.KVClass{Bits: 16}, compute.KVClass{Bits: 4, Group: 64, Recent: 128}
	for name, c := range map[string]struct {
		loaded compute.KVClass
		ask    *pb.KvOptions
		param  string // refused; empty is accepted
		code   string
	}{
		"nothing asked":              {four, nil, "", ""},
		"the loaded bits":            {four, &pb.KvOptions{Bits: 4}, "", ""},
		"the loaded bits and group":  {four, &pb.KvOptions{Bits: 4, GroupSize: 64}, "", ""},
		"the loaded group":           {four, &pb.KvOptions{GroupSize: 64}, "", ""},
		"16 of 16":                   {half, &pb.KvOptions{Bits: 16}, "", ""},
		"16 of float32":              {f32, &pb.KvOptions{Bits: 16}, "", ""},
		"16 of 4":                    {four, &pb.KvOptions{Bits: 16}, "kv.bits", codeUnsupported},
		"3 of 4":                     {four, &pb.KvOptions{Bits: 3}, "kv.bits", codeUnsupported},
		"4 of float32":               {f32, &pb.KvOptions{Bits: 4}, "kv.bits", codeUnsupported},
		"another group":              {four, &pb.KvOptions{Bits: 4, GroupSize: 32}, "kv.group_size", codeUnsupported},
		"a group of whole values":    {half, &pb.KvOptions{GroupSize: 32}, "kv.group_size", codeUnsupported},
		"bits that there are not":    {four, &pb.KvOptions{Bits: 5}, "kv.bits", codeInvalid},
		"a group that there is not":  {four, &pb.KvOptions{GroupSize: 7}, "kv.group_size", codeInvalid},
		"the steps that are loaded":  {four, &pb.KvOptions{Bits: 4, Progressive: true}, "", ""},
		"an optimised cache":         {half, &pb.KvOptions{Optimized: true}, "", ""},
		"float32 is not optimised":   {f32, &pb.KvOptions{Optimized: true}, "kv.optimized", codeUnsupported},
		"what is thinned":            {thin, &pb.KvOptions{Compression: &on, CompressionRatio: 4, CompressOlder: &whole}, "", ""},
		"the loaded ratio":           {thin, &pb.KvOptions{CompressionRatio: 4}, "", ""},
		"no thinning where none is":  {half, &pb.KvOptions{Compression: &off, CompressionRatio: 4}, "", ""},
		"thinning where none is":     {half, &pb.KvOptions{Compression: &on}, "kv.compression", codeUnsupported},
		"no thinning where it is":    {thin, &pb.KvOptions{Compression: &off}, "kv.compression", codeUnsupported},
		"another ratio":              {thin, &pb.KvOptions{CompressionRatio: 8}, "kv.compression_ratio", codeUnsupported},
		"a ratio that there is not":  {thin, &pb.KvOptions{CompressionRatio: 3}, "kv.compression_ratio", codeInvalid},
		"positions in no blocks":     {thin, &pb.KvOptions{CompressOlder: &odd}, "kv.compress_older", codeInvalid},
		"other positions whole":      {compute.KVClass{Bits: 16, Ratio: 4, Older: 2048}, &pb.KvOptions{CompressOlder: &whole}, "kv.compress_older", codeUnsupported},
		"a ladder that is not there": {half, &pb.KvOptions{Bits: 4, Progressive: true}, "kv.progressive", codeUnsupported},
	} {
		err := (&Model{KV: c.loaded}).checkKV(c.ask)
		if c.param == "" {
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		var p *problem
		if !errors.As(err, &p) || p.Param != c.param || p.Code != c.code {
			t.Errorf("%s: %v, want %s of %s", name, err, c.code, c.param)
			continue
		}
		if c.code == codeUnsupported && !strings.Contains(p.Message, "class "+c.loaded.String()) {
			t.Errorf("%s: %q does not say that %s is loaded", name, p.Message, c.loaded)
		}
	}
}

// TestKVClassIsPlanned: pages take what their class does, shards are told, and
// answers of another class have another fingerprint.
func TestKVClassIsPlanned(t *testing.T) {
	file, err := library.Library{}.Open(library.Default)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	file.Spec.Context = 8192 // or nothing thins out
	prints := map[string]bool{}
	thins := compute.KVClass{Bits: 4, Group: 32, Recent: 128, Ratio: 8, Older: 2048}
	for _, class := range []compute.KVClass{{}, {Bits: 16}, {Bits: 8, Group: 32}, {Bits: 4, Group: 32, Recent: 128}, {Bits: 2, Group: 32, Recent: 128, Upper: 3, Far: 512}, thins} {
		m, err := NewModel(file, class, Default().Wishes)
		if err != nil {
			t.Fatal(err)
		}
		want := uint64(file.Spec.KVHeads * class.HeadBytes(file.Spec.HeadDim))
		if m.Facts.KVPage != want {
			t.Errorf("%s: a page of %d bytes, want %d", class, m.Facts.KVPage, want)
		}
		if told := m.proto(); int(told.GetKvBits()) != class.Bits || int(told.GetKvGroup()) != class.Group ||
			int(told.GetKvRecent()) != class.Recent || int(told.GetKvUpper()) != class.Upper || int(told.GetKvFar()) != class.Far ||
			int(told.GetKvRatio()) != class.Ratio || int(told.GetKvOlder()) != class.Older {
			t.Errorf("%s: shards are told %v", class, told)
		}
		prints[fingerprint(&m, &plan.Pipeline{}, "v")] = true
	}
	if len(prints) != 6 {
		t.Errorf("6 classes have %d fingerprints", len(prints))
	}
	if _, err := NewModel(file, compute.KVClass{Bits: 4, Group: 128, Recent: 128}, Default().Wishes); !errors.Is(err, compute.ErrKVClass) {
		t.Errorf("groups wider than a head: %v", err)
	}
}
