package pki

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

func testToken(t *testing.T, role Role) Token {
	t.Helper()
	token, err := NewToken(Pin{1, 2, 3}, role)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func TestTokenText(t *testing.T) {
	for _, role := range AnyRole() {
		token := testToken(t, role)
		for _, text := range []string{token.Text(), strings.ToLower(token.Text()), " " + token.Text() + "\n"} {
			got, err := ParseToken(text)
			if err != nil || got != token || got.Role() != role {
				t.Errorf("%s: %v %s, %v", role, got, got.Role(), err)
			}
		}
		if testToken(t, role) == token {
			t.Error("two tokens are the same")
		}
	}
	if _, err := NewToken(Pin{}, "root"); err == nil {
		t.Error("a token of an unknown role")
	}
}

func TestBadTokensAreRefused(t *testing.T) {
	good := testToken(t, Shard).Text()
	parts := strings.Split(good, "-")
	for name, text := range map[string]string{
		"empty":               "",
		"a cluster secret":    NewSecret().Text(),
		"another version":     "SHOAL2" + good[6:],
		"cut":                 good[:len(good)-1],
		"cut in the middle":   strings.Join(parts[:3], "-"),
		"a part too many":     good + "-A",
		"a long part":         good + "A",
		"no authority":        strings.Join([]string{parts[0], "", parts[2], parts[3]}, "-"),
		"a role that is none": strings.Join([]string{parts[0], parts[1], "X" + parts[2][1:], parts[3]}, "-"),
		"a path as its id":    strings.Join([]string{parts[0], parts[1], "../../AA", parts[3]}, "-"),
		"digits 0 and 1":      strings.Join([]string{parts[0], parts[1], parts[2], "0" + parts[3][1:]}, "-"),
	} {
		_, err := ParseToken(text)
		if !errors.Is(err, ErrToken) {
			t.Errorf("%s: %v", name, err)
		} else if strings.Contains(err.Error(), parts[3][:8]) {
			t.Errorf("%s: the error repeats the token: %v", name, err)
		}
	}
}

func TestTokensHideTheirSecret(t *testing.T) {
	token := testToken(t, Gateway)
	secret := token.Text()[strings.LastIndex(token.Text(), "-")+1:]
	var log strings.Builder
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "token", token)
	for _, shown := range []string{fmt.Sprint(token), fmt.Sprintf("%v %+v %#v %x %s", token, token, token, token, token), log.String()} {
		if strings.Contains(shown, secret) || strings.Contains(shown, fmt.Sprintf("%x", token.Secret)) {
			t.Errorf("the secret shows in %q", shown)
		}
		if !strings.Contains(shown, token.ID) {
			t.Errorf("%q does not name the token", shown)
		}
	}
}

func FuzzParseToken(f *testing.F) {
	token, err := NewToken(Pin{7}, Shard)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(token.Text())
	f.Add("SHOAL1---")
	f.Fuzz(func(t *testing.T, text string) {
		if got, err := ParseToken(text); err == nil {
			if again, err := ParseToken(got.Text()); err != nil || again != got {
				t.Errorf("%q is read as %v, and that as %v: %v", text, got, again, err)
			}
		}
	})
}
