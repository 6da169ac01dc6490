package e2e

import (
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"github.com/continuwuity/wellknown/demo/internal/stack"
)

// TestFederation has two homeservers find each other by their documents, and by nothing else.
func TestFederation(t *testing.T) {
	authority, err := stack.NewAuthority()
	require.NoError(t, err)
	certificate, key, err := authority.Issue("a.test", "matrix.a.test", "b.test", "matrix.b.test")
	require.NoError(t, err)
	dir := t.TempDir()
	for name, content := range map[string]string{
		"ca.pem": string(authority.PEM), "cert.pem": string(certificate), "key.pem": string(key),
		"certificates.yml": "tls:\n  certificates:\n    - certFile: /tls/cert.pem\n      keyFile: /tls/key.pem\n",
	} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600))
	}
	roots := x509.NewCertPool()
	require.True(t, roots.AppendCertsFromPEM(authority.PEM))

	file, err := filepath.Abs(filepath.Join("testdata", "federation.yml"))
	require.NoError(t, err)
	p := newProject(t, "federation", file, "TLS="+dir, "SERVER_A=matrix.a.test:443", "SERVER_B=matrix.b.test:443")
	p.speak("https", &tls.Config{RootCAs: roots})
	up(t, p, "matrix.a.test:443")
	alice, bob := p.account(t, "a", "alice"), p.account(t, "b", "bob")
	ctx := t.Context()

	// An invitation goes from a to b, the join from b to a, and messages go both ways.
	room, err := alice.CreateRoom(ctx, &mautrix.ReqCreateRoom{Invite: []id.UserID{bob.UserID}})
	require.NoError(t, err)
	join := func(room id.RoomID) error {
		_, err := bob.JoinRoom(ctx, room.String(), &mautrix.ReqJoinRoom{Via: []string{"a.test"}})
		return err
	}
	require.NoError(t, join(room.RoomID))
	converse(t, room.RoomID, alice, bob)
	members, err := alice.JoinedMembers(ctx, room.RoomID)
	require.NoError(t, err)
	assert.Len(t, members.Joined, 2)

	// A document that leads nowhere. Nothing else is different: a's own address still answers.
	fresh, err := alice.CreateRoom(ctx, &mautrix.ReqCreateRoom{Preset: "public_chat"})
	require.NoError(t, err)
	wrong := *p
	wrong.environment = slices.Concat(p.environment, []string{"SERVER_A=matrix.a.test:8449"})
	up(t, &wrong, "matrix.a.test:8449")
	err = join(fresh.RoomID)
	require.Error(t, err, "b can't find a")
	assert.Contains(t, p.log(t, "b"), ":8449: connect: connection refused", "where the document has led it")

	up(t, p, "matrix.a.test:443")
	require.NoError(t, join(fresh.RoomID))
	converse(t, fresh.RoomID, alice, bob)
}

// up starts what is changed, and b anew, which forgets what it knew of a.
func up(t *testing.T, p *project, server string) {
	t.Helper()
	p.compose(t, "up", "--detach")
	p.becomes(t, "a.test", "/.well-known/matrix/server", `{"m.server":"`+server+`"}`)
	p.compose(t, "restart", "b")
	for _, host := range []string{"matrix.a.test", "matrix.b.test"} {
		p.eventually(t, host, "/_matrix/client/versions", http.StatusOK)
	}
	// The base domains have nothing of Matrix's but the documents.
	for _, domain := range []string{"a.test", "b.test"} {
		p.eventually(t, domain, "/_matrix/federation/v1/version", http.StatusNotFound)
	}
}

// account makes a user, who then logs in as a client does that knows the domain only.
func (p *project) account(t *testing.T, service, name string) *mautrix.Client {
	t.Helper()
	password := rand.Text()
	p.compose(t, "exec", "-T", service, "/dendrite/create-account", "-config", "/var/lib/continuwuity/dendrite.yaml",
		"-username", name, "-password", password)
	domain := service + ".test"
	found, err := mautrix.DiscoverClientAPIWithClient(t.Context(), p.client, domain)
	require.NoError(t, err)
	require.NotNil(t, found)
	assert.Equal(t, "https://matrix."+domain+"/", found.Homeserver.BaseURL)
	client, err := mautrix.NewClient(found.Homeserver.BaseURL, "", "")
	require.NoError(t, err)
	client.Client = p.client
	_, err = client.Login(t.Context(), &mautrix.ReqLogin{
		Type:       mautrix.AuthTypePassword,
		Identifier: mautrix.UserIdentifier{Type: mautrix.IdentifierTypeUser, User: name},
		Password:   password, StoreCredentials: true,
	})
	require.NoError(t, err)
	require.Equal(t, id.NewUserID(name, domain), client.UserID)
	return client
}

// converse has each say something that the other hears.
func converse(t *testing.T, room id.RoomID, one, other *mautrix.Client) {
	t.Helper()
	for _, pair := range [][2]*mautrix.Client{{one, other}, {other, one}} {
		from, to := pair[0], pair[1]
		text := "from " + from.UserID.String() + ": " + rand.Text()
		start := time.Now()
		_, err := from.SendText(t.Context(), room, text)
		require.NoError(t, err)
		require.Eventually(t, func() bool {
			messages, err := to.Messages(t.Context(), room, "", "", mautrix.DirectionBackward, nil, 20)
			if err != nil {
				return false
			}
			for _, message := range messages.Chunk {
				if message.Sender == from.UserID && message.Type == event.EventMessage && message.Content.Raw["body"] == text {
					return true
				}
			}
			return false
		}, 30*time.Second, 100*time.Millisecond, "%s did not hear %s", to.UserID, from.UserID)
		t.Logf("%s heard %s after %s", to.UserID, from.UserID, time.Since(start).Round(time.Millisecond))
	}
}
