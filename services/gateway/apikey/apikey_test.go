package apikey

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestAKeyIsKeptAsItsHash(t *testing.T) {
	now := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	k, text, err := New("alice", now)
	if err != nil {
		t.Fatal(err)
	}
	if other, _, _ := New("alice", now); other.Hash == k.Hash {
		t.Error("two keys are the same")
	}
	sum := sha256.Sum256([]byte(text))
	if k.Hash != hex.EncodeToString(sum[:]) || k.Sum() != sum || len(text) < len(prefix)+52 {
		t.Errorf("key %q has hash %s", text, k.Hash)
	}
	k.Requests, k.Tokens, k.Models, k.Expires = 60, 1000, []string{"tiny"}, now.Add(time.Hour)
	path := filepath.Join(t.TempDir(), "a", "keys.json")
	if err := Write(path, []Key{k}); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(content), text[:len(text)-4]) {
		t.Error("the file holds the key")
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v: %v", info.Mode(), err)
	}
	back, err := Read(path)
	if diff := cmp.Diff([]Key{k}, back); err != nil || diff != "" {
		t.Errorf("%v; -written +read:\n%s", err, diff)
	}
	if k.Expired(now) || !k.Expired(now.Add(time.Hour)) || (&Key{}).Expired(now) {
		t.Error("expiry")
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(path); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("a file that others can read: %v", err)
	}
}

func TestBadFilesAreRefused(t *testing.T) {
	hash := strings.Repeat("ab", 32)
	for name, c := range map[string]struct{ text, want string }{
		"no JSON":             {`keys`, "invalid"},
		"a misspelt limit":    {`{"keys":[{"name":"a","sha256":"` + hash + `","request_per_minute":1}]}`, "request_per_minute"},
		"a limit as text":     {`{"keys":[{"name":"a","sha256":"` + hash + `","requests_per_minute":"1"}]}`, "requests_per_minute"},
		"a negative limit":    {`{"keys":[{"name":"a","sha256":"` + hash + `","tokens_per_minute":-1}]}`, "-1 tokens a minute"},
		"a short hash":        {`{"keys":[{"name":"a","sha256":"abcd"}]}`, "64 hexadecimal digits"},
		"no name":             {`{"keys":[{"sha256":"` + hash + `"}]}`, "name"},
		"a name with a space": {`{"keys":[{"name":"a b","sha256":"` + hash + `"}]}`, "name"},
		"a key twice":         {`{"keys":[{"name":"a","sha256":"` + hash + `"},{"name":"b","sha256":"` + hash + `"}]}`, "twice"},
		"a name twice":        {`{"keys":[{"name":"a","sha256":"` + hash + `"},{"name":"a","sha256":"` + strings.Repeat("cd", 32) + `"}]}`, "twice"},
		"something after it":  {`{"keys":[]}{"keys":[]}`, "follows"},
		"a model of no name":  {`{"keys":[{"name":"a","sha256":"` + hash + `","models":[""]}]}`, "models"},
	} {
		if _, err := Parse([]byte(c.text)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	if _, _, err := New("../a", time.Now()); err == nil {
		t.Error("a path as a name")
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"keys":[{"name":"a","sha256":"` + strings.Repeat("ab", 32) + `","requests_per_minute":1,"models":["m"]}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		keys, err := Parse(text)
		if err != nil {
			return
		}
		for i := range keys {
			if err := keys[i].Check(); err != nil {
				t.Errorf("a key that is wrong was taken: %v", err)
			}
		}
	})
}
