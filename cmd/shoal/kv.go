package main

import (
	"github.com/spf13/pflag"

	"github.com/shoal-llm/shoal/pkg/compute"
)

// kvFlag is the flag that says how keys and values are stored.
type kvFlag struct{ compute.KVClass }

var _ pflag.Value = (*kvFlag)(nil)

func (k *kvFlag) flags(f *pflag.FlagSet) {
	f.Var(k, "kv", "bits of keys and values in the KV cache: float32, 16, 8, 4, 3 or 2; also with the values that share a scale, like 4/64, and with what stays finer, like 4@256 (halves for 256 positions) or 4@128-3@1024, and with what stays of old positions, like 4+4:1 or 4+8:1@4096 (one of 4 or 8, the last 1,024 or 4,096 whole)")
}

// Set reads the flag.
func (k *kvFlag) Set(s string) (err error) {
	k.KVClass, err = compute.ParseKVClass(s)
	return err
}

// Type names the flag's values for help.
func (k *kvFlag) Type() string { return "bits" }
