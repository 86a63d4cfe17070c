package gateway

import (
	"crypto/sha256"
	"errors"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// access decides who may ask: which Host names reach this server (a page that
// rebinds its DNS name to us still sends that name), which pages of other
// origins may use it, and which keys are known. All but the keys of a file stay as
// they were made.
type access struct {
	hosts   []string // lower case
	origins []string // lower case scheme://host[:port]
	keys    *keyring
}

func newAccess(c Config) (*access, error) {
	a := &access{}
	for _, host := range c.AllowedHosts {
		if host == "" || strings.ContainsAny(host, "/@ *") {
			return nil, errors.New("allowed host " + strconv.Quote(host) + " is not a host name")
		}
		a.hosts = append(a.hosts, strings.ToLower(host))
	}
	for _, origin := range c.AllowedOrigins {
		u, err := url.Parse(strings.ToLower(origin))
		if err != nil || u.Host == "" || u.Scheme+"://"+u.Host != strings.ToLower(origin) {
			return nil, errors.New("allowed origin " + strconv.Quote(origin) + " is not of the form https://example.com")
		}
		a.origins = append(a.origins, strings.ToLower(origin))
	}
	var err error
	a.keys, err = newKeyring(c)
	return a, err
}

// checkHost refuses a request whose Host is not one of this server's names.
func (a *access) checkHost(r *http.Request) *problem {
	host, ok := hostOf(r.Host)
	if ok && (host == "localhost" || slices.Contains(a.hosts, host) || ownAddress(host, r)) {
		return nil
	}
	return &problem{code: codeHost, message: "This server does not answer for that host name; an operator can allow it with --allowed-host."}
}

// hostOf takes the host out of HOST[:PORT], lower case and without brackets.
func hostOf(hostport string) (string, bool) {
	host := strings.ToLower(hostport)
	if h, port, err := net.SplitHostPort(host); err == nil {
		if _, err := strconv.ParseUint(port, 10, 16); err != nil {
			return "", false
		}
		return h, h != ""
	}
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	return host, host != "" && !strings.ContainsAny(host, "[]@/")
}

// ownAddress reports whether host is a loopback address or the address on which
// the request arrived.
func ownAddress(host string, r *http.Request) bool {
	ip := net.ParseIP(host)
	if ip == nil {
		return false
	}
	if ip.IsLoopback() {
		return true
	}
	local, ok := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr)
	return ok && local.IP.Equal(ip)
}

// checkOrigin refuses a browser's request that a page of another origin made.
// cross reports an allowed one, which needs CORS headers.
func (a *access) checkOrigin(r *http.Request) (cross bool, refused *problem) {
	refused = &problem{code: codeOrigin, message: "A page of another origin may not use this server; an operator can allow it with --allowed-origin."}
	origins := r.Header.Values("Origin")
	if len(origins) == 0 {
		// Old browsers send no Origin with some requests, but say this.
		if r.Method != http.MethodGet && r.Method != http.MethodHead && r.Header.Get("Sec-Fetch-Site") == "cross-site" {
			return false, refused
		}
		return false, nil
	}
	origin := strings.ToLower(origins[0])
	if len(origins) > 1 {
		return false, refused
	}
	if origin == "http://"+strings.ToLower(r.Host) || origin == "https://"+strings.ToLower(r.Host) {
		return false, nil
	}
	if slices.Contains(a.origins, origin) {
		return true, nil
	}
	return false, refused
}

// bearerPrefix begins the offered subprotocol that carries a browser's key.
const bearerPrefix = "bearer."

// keyOf finds the key a request carries: never in its address, never in a
// cookie.
func keyOf(r *http.Request) string {
	if key, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); ok {
		return key
	}
	for _, p := range offeredProtocols(r) {
		if key, ok := strings.CutPrefix(p, bearerPrefix); ok {
			return key
		}
	}
	return ""
}

// localTenant is who asks when no key is required.
const localTenant = "local"

// holderOf returns who holds a key. Without configured keys any key will do, and
// the caller has none.
func (a *access) holderOf(key string) (caller, *problem) {
	if !a.keys.needed() {
		return caller{tenant: localTenant}, nil
	}
	h := a.keys.find(sha256.Sum256([]byte(key)))
	if h == nil {
		return caller{}, &problem{code: codeBadKey, message: "An API key is needed: send it as the header \"Authorization: Bearer KEY\"."}
	}
	return caller{tenant: h.tenant, key: h}, h.expired(time.Now())
}
