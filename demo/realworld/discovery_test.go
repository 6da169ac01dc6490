//go:build linux

package realworld

import (
	"net/http"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib/fclient"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/federation"
	"maunium.net/go/mautrix/id"

	"github.com/continuwuity/wellknown/demo/internal/stack"
)

// TestReaders has those who read the documents in production find the homeserver by them.
func TestReaders(t *testing.T) {
	startHomeserver(t, "example.com", "8008", "alice")
	main, flags := production(t)
	containers := []stack.Container{
		main,
		// No port: it is in the SRV record.
		delegated("srv", "Host(`example.org`) || Host(`matrix.example.org`)", "8008",
			"server=matrix.example.org", "serverWithoutPort=true", "client=https://matrix.example.org",
			"identityServer=https://id.example.org", "livekit=https://livekit.example.org",
			`clientExtra={"io.element.e2ee":{"force_disable":true}}`, "cacheMaxAge=60"),
		delegated("ipv6", "Host(`example.net`) || Host(`"+address6+"`)", "8008",
			"server=["+address6+"]:443", "client=https://example.net", "cacheMaxAge=0"),
	}
	traefik := startTraefik(t, containers, append(flags, "--entrypoints.federation.address=:8443", "--entrypoints.federation.http.tls=true")...)

	// What would make the rest pass without any document.
	for _, url := range []string{"https://example.com/_matrix/client/versions", "https://example.com/_matrix/federation/v1/version"} {
		response, err := http.Get(url)
		require.NoError(t, err)
		require.NoError(t, response.Body.Close())
		require.Equal(t, http.StatusNotFound, response.StatusCode, "the homeserver is at matrix.example.com only")
	}

	t.Run("mautrix client", mautrixClient)
	t.Run("mautrix federation", func(t *testing.T) { mautrixFederation(t, traefik) })
	t.Run("gomatrixserverlib", gomatrixserverlib)
}

// mautrixClient logs in with a user ID and nothing else.
func mautrixClient(t *testing.T) {
	const user = id.UserID("@alice:example.com")
	_, domain, err := user.Parse()
	require.NoError(t, err)
	found, err := mautrix.DiscoverClientAPI(t.Context(), domain)
	require.NoError(t, err)
	assert.Equal(t, mautrix.ClientWellKnown{Homeserver: mautrix.HomeserverInfo{BaseURL: "https://matrix.example.com/"}}, *found)
	client, err := mautrix.NewClient(found.Homeserver.BaseURL, "", "")
	require.NoError(t, err)
	_, err = client.Login(t.Context(), &mautrix.ReqLogin{
		Type:             mautrix.AuthTypePassword,
		Identifier:       mautrix.UserIdentifier{Type: mautrix.IdentifierTypeUser, User: user.String()},
		Password:         password,
		StoreCredentials: true,
	})
	require.NoError(t, err)
	who, err := client.Whoami(t.Context())
	require.NoError(t, err)
	assert.Equal(t, user, who.UserID)

	found, err = mautrix.DiscoverClientAPI(t.Context(), "example.org")
	require.NoError(t, err)
	assert.Equal(t, mautrix.ClientWellKnown{
		Homeserver:     mautrix.HomeserverInfo{BaseURL: "https://matrix.example.org/"},
		IdentityServer: mautrix.IdentityServerInfo{BaseURL: "https://id.example.org/"},
	}, *found)
}

func mautrixFederation(t *testing.T, traefik *traefik) {
	for domain, want := range map[string]federation.ResolvedServerName{
		"example.com": {HostHeader: "matrix.example.com:443", IPPort: []string{"matrix.example.com:443"}},
		"example.org": {HostHeader: "matrix.example.org", IPPort: []string{"srv.example.org:8443"}},
		"example.net": {HostHeader: "[" + address6 + "]:443", IPPort: []string{"[" + address6 + "]:443"}},
	} {
		resolved, err := federation.ResolveServerName(t.Context(), domain)
		require.NoError(t, err)
		assert.Equal(t, want.HostHeader, resolved.HostHeader)
		assert.Equal(t, want.IPPort, resolved.IPPort)
	}

	traefik.accesses(t, "example.com")
	client := federation.NewClient("app.example.edu", nil, federation.NewInMemoryCache())
	for range 2 {
		keys, err := client.ServerKeys(t.Context(), "example.com")
		require.NoError(t, err)
		assert.Equal(t, "example.com", keys.ServerName)
		require.NotEmpty(t, keys.VerifyKeys)
	}
	assert.Equal(t, []string{"GET /.well-known/matrix/server 200"}, traefik.accesses(t, "example.com"), "asked once")
	for _, domain := range []string{"example.org", "example.net"} {
		version, err := client.Version(t.Context(), domain)
		require.NoError(t, err, domain)
		assert.Equal(t, "Dendrite", version.Server.Name)
	}
}

func gomatrixserverlib(t *testing.T) {
	client := fclient.NewClient(fclient.WithWellKnownSRVLookups(true))
	for _, want := range []struct {
		domain, server spec.ServerName
		maxAge         int64
		resolved       fclient.ResolutionResult
	}{
		{"example.com", "matrix.example.com:443", 3600, fclient.ResolutionResult{
			Destination: "matrix.example.com:443", Host: "matrix.example.com:443", TLSServerName: "matrix.example.com",
		}},
		{"example.org", "matrix.example.org", 60, fclient.ResolutionResult{
			Destination: "srv.example.org:8443", Host: "matrix.example.org", TLSServerName: "matrix.example.org",
		}},
		{"example.net", "[" + address6 + "]:443", 0, fclient.ResolutionResult{
			Destination: "[" + address6 + "]:443", Host: "[" + address6 + "]:443", TLSServerName: address6,
		}},
	} {
		before := time.Now().Unix()
		found, err := fclient.LookupWellKnown(t.Context(), want.domain)
		require.NoError(t, err)
		assert.Equal(t, want.server, found.NewAddress)
		if want.maxAge == 0 { // no-cache: nothing that says for how long
			assert.Zero(t, found.CacheExpiresAt)
		} else {
			assert.InDelta(t, before+want.maxAge, found.CacheExpiresAt, 5)
		}
		resolved, err := fclient.ResolveServer(t.Context(), want.domain)
		require.NoError(t, err)
		assert.Equal(t, []fclient.ResolutionResult{want.resolved}, resolved)

		version, err := client.GetVersion(t.Context(), want.domain)
		require.NoError(t, err, want.domain)
		assert.Equal(t, "Dendrite", version.Server.Name)
	}
	keys, err := client.GetServerKeys(t.Context(), "example.com")
	require.NoError(t, err)
	assert.Equal(t, spec.ServerName("example.com"), keys.ServerName)
}
