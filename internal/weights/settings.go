package weights

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"

	"github.com/shoal-llm/shoal/internal/fetch"
	"github.com/shoal-llm/shoal/internal/store"
)

// Settings are what makes a keeper on a machine, as flags have it. A process that
// serves a device for another is told the same.
type Settings struct {
	Dir     string   `json:"dir,omitempty"`     // of the store
	Quota   int64    `json:"quota,omitempty"`   // of it, in bytes; 0 is none
	Private []string `json:"private,omitempty"` // networks or addresses that may be fetched from though they are private
	Offline bool     `json:"offline,omitempty"`
	Verify  Verify   `json:"verify,omitempty"` // when bytes are read back; empty is VerifyOff
}

// Keeper makes the keeper. Its store is opened when it is first needed.
func (s Settings) Keeper(log *slog.Logger) (*Keeper, error) {
	private, err := parseNetworks(s.Private)
	if err != nil {
		return nil, err
	}
	hub := HubFromEnv()
	return New(Config{
		Open: func() (*store.Store, error) {
			if s.Dir == "" {
				return nil, errors.New("this user has no cache folder: say with --store where fetched weights go")
			}
			return store.Open(s.Dir, store.Options{Quota: s.Quota})
		},
		Fetcher: fetch.New(fetch.Options{Private: private, Token: hub.TokenFor}), Hub: hub, Offline: s.Offline, Verify: s.Verify, Log: log,
	}), nil
}

// parseNetworks reads networks and single addresses.
func parseNetworks(texts []string) (out []netip.Prefix, err error) {
	for _, text := range texts {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			a, err := netip.ParseAddr(text)
			if err != nil {
				return nil, fmt.Errorf("%q is neither a network like 10.0.0.0/8 nor an address", text)
			}
			p = netip.PrefixFrom(a.Unmap(), a.Unmap().BitLen())
		}
		out = append(out, p.Masked())
	}
	return out, nil
}
