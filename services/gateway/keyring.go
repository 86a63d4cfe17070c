package gateway

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"sync/atomic"
	"time"

	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
	"github.com/shoal-llm/shoal/services/gateway/apikey"
)

// keysEvery is how often the file of keys is looked at.
const keysEvery = time.Second

// keyring are the API keys that hold now: those of the configuration, which have no
// limits, and those of a file, which is read again when it changes.
type keyring struct {
	path   string // of the file; empty: none
	plain  []*heldKey
	inFile atomic.Pointer[[]*heldKey]
	stamp  string // of the file; belongs to watch
}

// heldKey is a key and what it has used. It is not changed after it was made, but
// for the budget's inside.
type heldKey struct {
	sum    [sha256.Size]byte
	tenant string
	limits *apikey.Key // nil: none
	budget *budget     // nil: none
}

func newHeldKey(sum [sha256.Size]byte) *heldKey {
	return &heldKey{sum: sum, tenant: "key-" + hex.EncodeToString(sum[:8])}
}

func newKeyring(c Config) (*keyring, error) {
	r := &keyring{path: c.Keys}
	for _, key := range c.APIKeys {
		if key == "" {
			return nil, errors.New("an API key must not be empty")
		}
		r.plain = append(r.plain, newHeldKey(sha256.Sum256([]byte(key))))
	}
	r.inFile.Store(&[]*heldKey{})
	if r.path == "" {
		return r, nil
	}
	r.stamp = stampOf(r.path)
	if err := r.read(time.Now()); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = fmt.Errorf("%w: make a key with `shoal key create NAME --keys %s`", err, r.path)
		}
		return nil, err
	}
	return r, nil
}

// needed reports whether a request must show a key.
func (r *keyring) needed() bool { return len(r.plain) > 0 || r.path != "" }

// read puts the file in force. A key that was there before keeps what it has used.
func (r *keyring) read(now time.Time) error {
	keys, err := apikey.Read(r.path)
	if err != nil {
		return err
	}
	budgets := map[[sha256.Size]byte]*budget{}
	for _, h := range *r.inFile.Load() {
		budgets[h.sum] = h.budget
	}
	held := make([]*heldKey, len(keys))
	for i := range keys {
		k := &keys[i]
		h := newHeldKey(k.Sum())
		h.limits, h.budget = k, budgets[h.sum]
		if h.budget == nil {
			h.budget = &budget{}
		}
		h.budget.limit(k.Requests, k.Tokens, now)
		held[i] = h
	}
	r.inFile.Store(&held)
	return nil
}

// watch reads the file again when it has changed, until ctx ends. One that cannot
// be read leaves the keys in force that there were: a mistake must neither open the
// gateway nor shut everybody out.
func (r *keyring) watch(ctx context.Context, log *slog.Logger) error {
	if r.path == "" {
		return nil
	}
	ticker := time.NewTicker(keysEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		stamp := stampOf(r.path)
		if stamp == r.stamp {
			continue
		}
		r.stamp = stamp
		if err := r.read(time.Now()); err != nil {
			log.Error("the changed API keys are not in force: those from before are", "err", err)
			continue
		}
		log.Info("API keys read", "keys", len(*r.inFile.Load()))
	}
}

// stampOf changes with a file.
func stampOf(path string) string {
	info, err := os.Stat(path)
	if err != nil {
		return err.Error()
	}
	return fmt.Sprint(info.ModTime().UnixNano(), " ", info.Size())
}

// find returns the key of a hash. Every key is compared, each in constant time.
func (r *keyring) find(sum [sha256.Size]byte) *heldKey {
	var found *heldKey
	for _, list := range [][]*heldKey{r.plain, *r.inFile.Load()} {
		for _, h := range list {
			if subtle.ConstantTimeCompare(h.sum[:], sum[:]) == 1 {
				found = h
			}
		}
	}
	return found
}

// expired says that a key no longer holds. Only who has the key hears it.
func (h *heldKey) expired(now time.Time) *problem {
	if h.limits == nil || !h.limits.Expired(now) {
		return nil
	}
	return &problem{code: codeBadKey, message: "This API key expired on " + h.limits.Expires.UTC().Format("2 January 2006, 15:04 UTC") + "."}
}

var errGoneKey = &problem{code: codeBadKey, message: "This API key has been revoked."}

// charge counts a request on its key, or says why the key does not allow it. What a
// key allows may have changed since its holder came in.
func (g *Gateway) charge(ctx context.Context, model string) *problem {
	who := callerOf(ctx)
	if who.key == nil {
		return nil
	}
	now := time.Now()
	h := g.access.keys.find(who.key.sum)
	if h == nil {
		return errGoneKey
	}
	if p := h.expired(now); p != nil {
		return p
	}
	if h.limits == nil {
		return nil
	}
	if p := g.allowed(ctx, h.limits.Models, model); p != nil {
		return p
	}
	wait, of := h.budget.begin(now)
	if wait == 0 {
		return nil
	}
	limit := h.limits.Requests
	if of == "tokens" {
		limit = h.limits.Tokens
	}
	return &problem{
		code: codeRateLimit, retryable: true, retryAfter: wait,
		message: fmt.Sprintf("This API key allows %d %s a minute; ask again in %v.", limit, of, max(wait.Round(time.Second), time.Second)),
	}
}

// allowed refuses a model that a key is not for. A name that the cluster does not
// know is not in any list.
func (g *Gateway) allowed(ctx context.Context, models []string, name string) *problem {
	if len(models) == 0 {
		return nil
	}
	state, err := g.cluster.state(ctx)
	if err != nil {
		return errNoCoordinator
	}
	if m := findModel(state.GetModels(), name); m != nil && (listed(models, m) || slices.Contains(models, name)) {
		return nil
	}
	return &problem{code: codeModelDenied, param: "model", message: "This API key is not for that model."}
}

// listed reports whether a key's list has a model, by its name or an alias: then it is
// for the model's adapters too. A list may name an adapter alone.
func listed(models []string, m *pb.ModelInfo) bool {
	return slices.Contains(models, m.GetName()) || slices.ContainsFunc(m.GetAliases(), func(a string) bool { return slices.Contains(models, a) })
}

// visible are the models that a caller may know of.
func visible(who caller, models []*pb.ModelInfo) []*pb.ModelInfo {
	if who.key == nil || who.key.limits == nil || len(who.key.limits.Models) == 0 {
		return models
	}
	var out []*pb.ModelInfo
	for _, m := range models {
		if listed(who.key.limits.Models, m) {
			out = append(out, m)
		}
	}
	return out
}
