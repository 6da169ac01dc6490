// Package cases is the table that the compiled plugin, the interpreted plugin and the plugin in a
// real Traefik are all tested with.
package cases

import "net/http"

// Case is a configuration, and what comes of it: exchanges, or the lines of New's error.
type Case struct {
	Name      string
	Labels    []string // option=value, as after traefik.http.middlewares.<name>.plugin.wellknown.
	Exchanges []Exchange
	Errors    []string
}

// Exchange is a request and its answer.
type Exchange struct {
	Method  string
	Target  string   // as on the request line
	Headers []string // Name: value; {etag} stands for the last ETag that was received
	Body    string

	Status     int
	WantHeader map[string]string // all of them, but for those that HTTP itself needs; ETag: any
	WantBody   string
	Forwarded  bool // the service behind answers; Status and the rest do not apply
}

const dir = "/.well-known/matrix/"

func get(name, body string) Exchange {
	return document(http.MethodGet, dir+name, body)
}

func head(name, bodyOfGet string) Exchange {
	e := document(http.MethodHead, dir+name, bodyOfGet)
	e.WantBody = ""
	return e
}

func document(method, target, body string) Exchange {
	return Exchange{
		Method: method, Target: target,
		Status: http.StatusOK, WantBody: body,
		WantHeader: map[string]string{
			"Access-Control-Allow-Origin": "*",
			"X-Content-Type-Options":      "nosniff",
			"Content-Type":                "application/json",
			"Content-Length":              length(body),
			"Cache-Control":               "public, max-age=3600",
			"Etag":                        etagOf(body),
		},
	}
}

func (e Exchange) with(headers ...string) Exchange {
	e.Headers = append(e.Headers, headers...)
	return e
}

func (e Exchange) cached(control string) Exchange {
	e.WantHeader["Cache-Control"] = control
	return e
}

// notModified expects that the client's copy of the guide's server document is still good.
func notModified(method, ifNoneMatch string) Exchange {
	e := document(method, dir+"server", guideServer).with("If-None-Match: " + ifNoneMatch)
	e.Status, e.WantBody = http.StatusNotModified, ""
	delete(e.WantHeader, "Content-Type")
	delete(e.WantHeader, "Content-Length")
	return e
}

func preflight(name string) Exchange {
	return Exchange{
		Method: http.MethodOptions, Target: dir + name,
		Status: http.StatusNoContent,
		WantHeader: map[string]string{
			"Access-Control-Allow-Origin":  "*",
			"X-Content-Type-Options":       "nosniff",
			"Access-Control-Allow-Methods": "GET, HEAD, OPTIONS",
			"Access-Control-Allow-Headers": "X-Requested-With, Content-Type, Authorization",
			"Access-Control-Max-Age":       "86400",
		},
	}
}

func methodNotAllowed(method, name string) Exchange {
	e := refused(method, dir+name, http.StatusMethodNotAllowed,
		`{"errcode":"M_UNRECOGNIZED","error":"This document can only be read: use GET."}`)
	e.WantHeader["Allow"] = "GET, HEAD, OPTIONS"
	return e
}

func notFound(method, target string) Exchange {
	return refused(method, target, http.StatusNotFound,
		`{"errcode":"M_NOT_FOUND","error":"There is no such document here."}`)
}

func refused(method, target string, status int, body string) Exchange {
	e := Exchange{
		Method: method, Target: target, Status: status, WantBody: body,
		WantHeader: map[string]string{
			"Access-Control-Allow-Origin": "*",
			"X-Content-Type-Options":      "nosniff",
			"Content-Type":                "application/json",
			"Content-Length":              length(body),
			"Cache-Control":               "no-store",
		},
	}
	if method == http.MethodHead {
		e.WantBody = ""
	}
	return e
}

func forwarded(method, target string) Exchange {
	return Exchange{Method: method, Target: target, Forwarded: true}
}

func (e Exchange) sending(body string) Exchange {
	e.Body = body
	return e
}

// serves is a case with one document.
func serves(name string, label, document, body string) Case {
	return Case{Name: name, Labels: []string{label}, Exchanges: []Exchange{get(document, body)}}
}

// clientCase is a case whose client document has more than the guide's.
func clientCase(name, extra string, labels ...string) Case {
	return Case{
		Name:      name,
		Labels:    append([]string{"client=https://matrix.example.com", "slidingSync=false"}, labels...),
		Exchanges: []Exchange{get("client", `{`+extra+`}`)},
	}
}

// baseURL is a case of client and what the document makes of it.
func baseURL(written, served string) Case {
	return Case{
		Name:      "client " + written,
		Labels:    []string{"client=" + written, "slidingSync=false"},
		Exchanges: []Exchange{get("client", `{"m.homeserver":{"base_url":"`+served+`"}}`)},
	}
}

// refuses is a case with one label and one line of error, which begins with what the label says.
func refuses(label string, lines ...string) Case {
	return Case{Name: "refuses " + label, Labels: []string{label}, Errors: lines}
}

// refusesExtra is as refuses, for clientExtra beside a client.
func refusesExtra(extra, line string, labels ...string) Case {
	labels = append([]string{"client=https://matrix.example.com", "clientExtra=" + extra}, labels...)
	return Case{Name: "refuses clientExtra " + extra, Labels: labels, Errors: []string{line}}
}

const (
	guideServer = `{"m.server":"matrix.example.com:443"}`
	guideClient = `{"m.homeserver":{"base_url":"https://matrix.example.com/"},"org.matrix.msc3575.proxy":{"url":"https://matrix.example.com/"}}`
	homeserver  = `"m.homeserver":{"base_url":"https://matrix.example.com/"}`
	publicKey   = "6yhHGKhCiXTSEN2ksjV7kX_N6rBQZ3Xb-M7LlC6NS-s"
)

var guide = []string{"server=matrix.example.com:443", "client=https://matrix.example.com"}

// All is the table.
var All = []Case{
	// Documents.
	{
		Name:   "the delegation guide",
		Labels: guide,
		Exchanges: []Exchange{
			get("server", guideServer),
			get("client", guideClient),
			forwarded("GET", dir+"support"),
		},
	},
	serves("server alone", "server=matrix.example.com:443", "server", guideServer),
	{
		Name:      "server without a port",
		Labels:    []string{"server=matrix.example.com", "serverWithoutPort=true"},
		Exchanges: []Exchange{get("server", `{"m.server":"matrix.example.com"}`), forwarded("GET", dir+"client")},
	},
	serves("server is an IPv4 address", "server=192.0.2.1:8448", "server", `{"m.server":"192.0.2.1:8448"}`),
	serves("server is an IPv6 address", "server=[2001:db8::1]:8448", "server", `{"m.server":"[2001:db8::1]:8448"}`),
	{
		Name:      "server is an IPv6 address without a port",
		Labels:    []string{"server=[2001:db8::1]", "serverWithoutPort=1"},
		Exchanges: []Exchange{get("server", `{"m.server":"[2001:db8::1]"}`)},
	},
	serves("server is kept as given", "server=Matrix.Example.COM:0443", "server", `{"m.server":"Matrix.Example.COM:0443"}`),
	serves("server in another alphabet", "server=xn--mller-kva.example:443", "server", `{"m.server":"xn--mller-kva.example:443"}`),

	clientCase("client without sliding sync", homeserver),
	baseURL("https://matrix.example.com", "https://matrix.example.com/"),
	baseURL("https://matrix.example.com/", "https://matrix.example.com/"),
	baseURL("HTTPS://Matrix.Example.COM", "https://matrix.example.com/"),
	baseURL("https://matrix.example.com:443", "https://matrix.example.com/"),
	baseURL("https://matrix.example.com:0443/", "https://matrix.example.com/"),
	baseURL("https://matrix.example.com:", "https://matrix.example.com/"),
	baseURL("https://matrix.example.com:8448", "https://matrix.example.com:8448/"),
	baseURL("https://matrix.example.com:80", "https://matrix.example.com:80/"),
	baseURL("http://localhost:80", "http://localhost/"),
	baseURL("http://my_host:8008", "http://my_host:8008/"),
	baseURL("https://example.com/matrix", "https://example.com/matrix"),
	baseURL("https://example.com/Matrix//%7euser/%C3%A9/", "https://example.com/Matrix//%7euser/%C3%A9/"),
	baseURL("https://192.0.2.1:443", "https://192.0.2.1/"),
	baseURL("https://[2001:DB8:0:0:0:0:0:1]:443", "https://[2001:db8::1]/"),
	baseURL("https://[::ffff:192.0.2.1]:8448", "https://[::ffff:c000:201]:8448/"),
	clientCase("identity server", homeserver+`,"m.identity_server":{"base_url":"https://id.example.com/"}`,
		"identityServer=https://ID.example.com:443"),
	clientCase("one LiveKit service",
		homeserver+`,"org.matrix.msc4143.rtc_foci":[{"livekit_service_url":"https://livekit.example.com","type":"livekit"}]`,
		"livekit=https://livekit.example.com"),
	clientCase("two LiveKit services, as given and in order",
		homeserver+`,"org.matrix.msc4143.rtc_foci":[{"livekit_service_url":"https://Z.example.com/livekit/jwt/","type":"livekit"},{"livekit_service_url":"https://a.example.com/?x=%3C&%3E","type":"livekit"}]`,
		"livekit[0]=https://Z.example.com/livekit/jwt/", "livekit[1]=https://a.example.com/?x=%3C&%3E"),
	clientCase("LiveKit services as a list",
		homeserver+`,"org.matrix.msc4143.rtc_foci":[{"livekit_service_url":"https://a.example.com","type":"livekit"},{"livekit_service_url":"https://b.example.com","type":"livekit"}]`,
		"livekit=https://a.example.com,https://b.example.com"),
	clientCase("more keys, with numbers as written, nothing escaped and null kept",
		`"io.element.e2ee":{"force_disable":true,"n":[null,1.50,1e400,-0,{}]},`+homeserver+`,"org.example.text":"<b>&</b> é \"q\" \\"`,
		`clientExtra={"org.example.text":"<b>&</b> é \"q\" \\", "io.element.e2ee": {"n": [null, 1.50, 1e400, -0, {}], "force_disable": true}}`),
	clientCase("an empty object of more keys", homeserver, `clientExtra={}`),
	clientCase("the stable name of the foci, if livekit is not set", homeserver+`,"m.rtc_foci":[]`, `clientExtra={"m.rtc_foci":[]}`),
	clientCase("a focus of another type, if livekit is not set",
		homeserver+`,"org.matrix.msc4143.rtc_foci":[{"type":"org.example"}]`,
		`clientExtra={"org.matrix.msc4143.rtc_foci":[{"type":"org.example"}]}`),
	clientCase("another sliding sync proxy, if slidingSync is off",
		homeserver+`,"org.matrix.msc3575.proxy":{"url":"https://sync.example.com"}`,
		`clientExtra={"org.matrix.msc3575.proxy":{"url":"https://sync.example.com"}}`),
	clientCase("an identity server with more than its URL",
		homeserver+`,"m.identity_server":{"base_url":"https://id.example.com","org.example.x":1}`,
		`clientExtra={"m.identity_server":{"base_url":"https://id.example.com","org.example.x":1}}`),
	clientCase("empty options are not set", homeserver,
		"server=", "identityServer=", "livekit=", "clientExtra=", "supportPage=", "supportEmail=", "documents.mautrix=", "cacheMaxAge=3600"),

	serves("support page", "supportPage=https://example.com/support?lang=en#top", "support", `{"support_page":"https://example.com/support?lang=en#top"}`),
	serves("support by mail", "supportPage=mailto:admin@example.com?subject=Matrix", "support", `{"support_page":"mailto:admin@example.com?subject=Matrix"}`),
	serves("contact by email", "supportEmail=admin@example.com", "support", `{"contacts":[{"email_address":"admin@example.com","role":"m.role.admin"}]}`),
	serves("contact by Matrix ID", "supportMxid=@admin:example.com", "support", `{"contacts":[{"matrix_id":"@admin:example.com","role":"m.role.admin"}]}`),
	serves("contact with a historical Matrix ID and a port", "supportMxid=@Admin#1:example.com:8448", "support", `{"contacts":[{"matrix_id":"@Admin#1:example.com:8448","role":"m.role.admin"}]}`),
	{
		Name: "a whole support document",
		Labels: []string{
			"supportPage=https://example.com/support", "supportRole=m.role.security", "supportEmail=security@example.com",
			"supportMxid=@security:example.com", "supportPgpKey=openpgp4fpr:0123456789ABCDEF0123456789ABCDEF01234567",
			"supportContacts[0].email=admin@example.com", "supportContacts[1].role=org.example.role.moderator",
			"supportContacts[1].mxid=@mod:example.com", "supportContacts[1].pgpKey=https://example.com/mod.asc",
		},
		Exchanges: []Exchange{get("support", `{"contacts":[`+
			`{"dev.zirco.msc4439.pgp_key":"openpgp4fpr:0123456789ABCDEF0123456789ABCDEF01234567","email_address":"security@example.com","matrix_id":"@security:example.com","role":"m.role.security"},`+
			`{"email_address":"admin@example.com","role":"m.role.admin"},`+
			`{"dev.zirco.msc4439.pgp_key":"https://example.com/mod.asc","matrix_id":"@mod:example.com","role":"org.example.role.moderator"}`+
			`],"support_page":"https://example.com/support"}`)},
	},
	serves("only further contacts", "supportContacts[0].mxid=@admin:example.com", "support", `{"contacts":[{"matrix_id":"@admin:example.com","role":"m.role.admin"}]}`),
	{
		Name:      "a role alone is no support document",
		Labels:    []string{"server=matrix.example.com:443", "supportRole=m.role.security"},
		Exchanges: []Exchange{forwarded("GET", dir+"support")},
	},
	serves("policy server", "policyServerPublicKey="+publicKey, "policy_server", `{"public_keys":{"ed25519":"`+publicKey+`"}}`),
	serves("policy server, standard alphabet", "policyServerPublicKey=6yhHGKhCiXTSEN2ksjV7kX/N6rBQZ3Xb+M7LlC6NS+s", "policy_server", `{"public_keys":{"ed25519":"6yhHGKhCiXTSEN2ksjV7kX/N6rBQZ3Xb+M7LlC6NS+s"}}`),
	serves("a further document", `documents.mautrix={"fi.mau.bridges": [ ]}`, "mautrix", `{"fi.mau.bridges":[]}`),
	serves("an empty document", `documents.empty={}`, "empty", `{}`),
	{
		Name:   "further documents beside the others, in their own spelling",
		Labels: []string{"server=matrix.example.com:443", `documents.Element-1_~=` + `{"b":1,"a":2}`, `documents.app={"x":{}}`},
		Exchanges: []Exchange{
			get("server", guideServer), get("Element-1_~", `{"a":2,"b":1}`), get("app", `{"x":{}}`),
			forwarded("GET", dir+"element-1_~"),
		},
	},
	{Name: "options are not case-sensitive", Labels: []string{"SERVER=matrix.example.com:443", "cachemaxage=60"}, Exchanges: []Exchange{get("server", guideServer).cached("public, max-age=60")}},

	// HTTP.
	{
		Name:   "reading",
		Labels: guide,
		Exchanges: []Exchange{
			get("client", guideClient),
			head("client", guideClient),
			document("GET", dir+"server?x=%zz&y", guideServer),
			get("client", guideClient).with("Origin: https://app.example.org", "Accept: text/html", "Authorization: Bearer x",
				"Cookie: a=b", "Range: bytes=0-3", "If-Match: \"x\"", "If-Modified-Since: Tue, 24 Nov 2026 00:00:00 GMT", "Accept-Encoding: gzip"),
			get("client", guideClient).sending("a body"),
		},
	},
	{
		Name:   "conditional requests",
		Labels: guide,
		Exchanges: []Exchange{
			get("server", guideServer),
			notModified("GET", "{etag}"),
			notModified("HEAD", "{etag}"),
			notModified("GET", "W/{etag}"),
			notModified("GET", "*"),
			notModified("GET", `"x", W/"y" ,{etag}`),
			notModified("GET", `"x"`).with("If-None-Match: {etag}"),
			get("server", guideServer).with(`If-None-Match: "x"`),
			get("server", guideServer).with("If-None-Match:"),
			get("client", guideClient).with("If-None-Match: {etag}"),
		},
	},
	{
		Name:   "methods",
		Labels: guide,
		Exchanges: []Exchange{
			preflight("client"),
			preflight("server").with("Origin: https://app.example.org", "Access-Control-Request-Method: GET", "Access-Control-Request-Headers: authorization"),
			methodNotAllowed("POST", "client").sending("{}"),
			methodNotAllowed("PUT", "client").sending("{}"),
			methodNotAllowed("DELETE", "server"),
			methodNotAllowed("PATCH", "server"),
			methodNotAllowed("get", "server"),
			methodNotAllowed("PROPFIND", "server"),
		},
	},
	{Name: "not to be cached", Labels: append([]string{"cacheMaxAge=0"}, guide...), Exchanges: []Exchange{
		get("server", guideServer).cached("no-cache"), head("client", guideClient).cached("no-cache"),
		notModified("GET", "*").cached("no-cache"),
	}},
	{Name: "cached for as long as servers do", Labels: append([]string{"cacheMaxAge=172800"}, guide...), Exchanges: []Exchange{
		get("server", guideServer).cached("public, max-age=172800"),
	}},
	{
		Name:   "standalone",
		Labels: append([]string{"standalone=true"}, guide...),
		Exchanges: []Exchange{
			get("server", guideServer),
			preflight("client"),
			methodNotAllowed("POST", "client"),
			notFound("GET", dir+"support"),
			notFound("HEAD", dir+"support"),
			notFound("OPTIONS", dir+"support"),
			notFound("POST", dir+"support"),
			notFound("GET", dir),
			notFound("GET", dir+"server/"),
			notFound("GET", dir+"SERVER"),
			forwarded("GET", "/.well-known/matrix"),
			forwarded("GET", "/.well-known/matrixfoo"),
			forwarded("GET", "/.well-known/MATRIX/server"),
			forwarded("GET", "/"),
			forwarded("GET", "/_matrix/client/versions"),
		},
	},

	// Forwarding. Not here: %73erver and %2e, which Traefik decodes before any middleware sees them.
	{
		Name:   "everything else is forwarded",
		Labels: guide,
		Exchanges: []Exchange{
			forwarded("GET", "/"),
			forwarded("GET", "/_matrix/client/versions"),
			forwarded("OPTIONS", "/_matrix/client/versions"),
			forwarded("HEAD", "/_matrix/client/versions"),
			forwarded("POST", "/_matrix/client/v3/login?a=b&a=%2F").sending(`{"type":"m.login.password"}`),
			forwarded("PUT", "/_matrix/client/v3/directory/room/%23room%3Aexample.com").sending("x"),
			forwarded("GET", "/_matrix/media/v3/download/example.com/a%2Fb%25c"),
			forwarded("GET", "/.well-known"),
			forwarded("GET", "/.well-known/"),
			forwarded("GET", "/.well-known/matrix"),
			forwarded("GET", dir),
			forwarded("GET", "/.well-known/matrixfoo"),
			forwarded("GET", "/.well-known/matrixserver"),
			forwarded("GET", dir+"server/"),
			forwarded("GET", dir+"server/x"),
			forwarded("GET", dir+"Server"),
			forwarded("GET", dir+"servers"),
			forwarded("GET", "/.well-known/matrix%2Fserver"),
			forwarded("GET", "/.well-known/MATRIX/server"),
			forwarded("POST", dir+"support").sending("x"),
			forwarded("GET", "/.well-known/acme-challenge/x"),
			forwarded("GET", "/x/.well-known/matrix/server"),
			forwarded("GET", "//"),
			forwarded("GET", "//.well-known/matrix/server"),
			forwarded("GET", "/.well-known//matrix/server"),
			forwarded("GET", "/a/../.well-known/matrix/server"),
			forwarded("GET", "/a/../b"),
			forwarded("GET", "/a%2Fb/%23/%25"),
		},
	},

	// Bad configuration: server.
	refuses("server=https://matrix.example.com", "server='https://matrix.example.com': is a URL, but other servers want only host and port; write server=matrix.example.com:443"),
	refuses("server=https://matrix.example.com:8448/", "server='https://matrix.example.com:8448/': is a URL, but other servers want only host and port; write server=matrix.example.com:8448"),
	refuses("server=matrix.example.com/", "server='matrix.example.com/': has a path, but other servers want only host and port; write server=matrix.example.com:443"),
	refuses("server=matrix.example.com:443/x", "server='matrix.example.com:443/x': has a path, but other servers want only host and port; write server=matrix.example.com:443"),
	refuses("server= matrix.example.com:443", "server=' matrix.example.com:443': has a space; write server=matrix.example.com:443"),
	refuses("server=matrix example.com:443", "server='matrix example.com:443': has a space; write server=matrix.example.com:443"),
	refuses("server=matrix.example.com", "server='matrix.example.com': has no port, so other servers would try 8448; write server=matrix.example.com:443, or add serverWithoutPort=true if an SRV record holds the port"),
	refuses("server=matrix.example.com:", "server='matrix.example.com:': has the port '', which is not a number from 1 to 65535; write server=matrix.example.com:443"),
	refuses("server=matrix.example.com:https", "server='matrix.example.com:https': has the port 'https', which is not a number from 1 to 65535; write server=matrix.example.com:443"),
	refuses("server=matrix.example.com:0", "server='matrix.example.com:0': has the port '0', which is not a number from 1 to 65535; write server=matrix.example.com:443"),
	refuses("server=matrix.example.com:65536", "server='matrix.example.com:65536': has the port '65536', which is not a number from 1 to 65535; write server=matrix.example.com:443"),
	refuses("server=matrix.example.com:+443", "server='matrix.example.com:+443': has the port '+443', which is not a number from 1 to 65535; write server=matrix.example.com:443"),
	refuses("server=:443", "server=':443': has no host; write server=matrix.example.com:443"),
	refuses("server=2001:db8::1", "server='2001:db8::1': has several colons; write an IPv6 address in brackets, as in server=[2001:db8::1]:443, or a name and one port: server=matrix.example.com:443"),
	refuses("server=[matrix.example.com]:443", "server='[matrix.example.com]:443': has brackets around something that is not an IPv6 address; write server=[2001:db8::1]:443, or a name without brackets: server=matrix.example.com:443"),
	refuses("server=[fe80::1%eth0]:443", "server='[fe80::1%eth0]:443': has brackets around something that is not an IPv6 address; write server=[2001:db8::1]:443, or a name without brackets: server=matrix.example.com:443"),
	refuses("server=[192.0.2.1]:443", "server='[192.0.2.1]:443': has brackets around something that is not an IPv6 address; write server=[2001:db8::1]:443, or a name without brackets: server=matrix.example.com:443"),
	refuses("server=müller.example:443", "server='müller.example:443': has characters that a server name can't have (only letters, digits, dots and hyphens; other alphabets in their xn-- form); write server=matrix.example.com:443"),
	refuses("server=my_host:443", "server='my_host:443': has characters that a server name can't have (only letters, digits, dots and hyphens; other alphabets in their xn-- form); write server=matrix.example.com:443"),
	refuses("server=@admin:example.com", "server='@admin:example.com': has characters that a server name can't have (only letters, digits, dots and hyphens; other alphabets in their xn-- form); write server=matrix.example.com:443"),
	refuses("server=matrix..example.com:443", "server='matrix..example.com:443': has characters that a server name can't have (only letters, digits, dots and hyphens; other alphabets in their xn-- form); write server=matrix.example.com:443"),
	{
		Name: "refuses a port with serverWithoutPort", Labels: []string{"server=matrix.example.com:443", "serverWithoutPort=true"},
		Errors: []string{"server='matrix.example.com:443': has a port, which serverWithoutPort=true rules out; write server=matrix.example.com, or remove serverWithoutPort"},
	},

	// Bad configuration: URLs.
	refuses("client=matrix.example.com", "client='matrix.example.com': does not begin with https://; write client=https://matrix.example.com"),
	refuses("client=matrix.example.com:8448", "client='matrix.example.com:8448': does not begin with https://; write client=https://matrix.example.com:8448"),
	refuses("client=https:matrix.example.com", "client='https:matrix.example.com': does not begin with https://; write client=https://matrix.example.com"),
	refuses("client=ftp://matrix.example.com", "client='ftp://matrix.example.com': is neither an https:// nor an http:// URL; write client=https://matrix.example.com"),
	refuses("client=https://", "client='https://': has no host; write client=https://matrix.example.com"),
	refuses("client=https:///x", "client='https:///x': has no host; write client=https://matrix.example.com"),
	refuses("client=https://:443", "client='https://:443': has no host; write client=https://matrix.example.com"),
	refuses("client=https://matrix.example.com ", "client='https://matrix.example.com ': has a space; write it without, as in client=https://matrix.example.com"),
	refuses("client=https://matrix.example.com:0", "client='https://matrix.example.com:0': has the port '0', which is not a number from 1 to 65535; write client=https://matrix.example.com"),
	refuses("client=https://matrix.example.com:99999", "client='https://matrix.example.com:99999': has the port '99999', which is not a number from 1 to 65535; write client=https://matrix.example.com"),
	refuses("client=https://matrix.example.com:x", "client='https://matrix.example.com:x': is not a URL (other alphabets and special characters are written as xn-- in names and as %XX in paths); write one like client=https://matrix.example.com"),
	refuses("client=https://müller.example", "client='https://müller.example': is not a URL (other alphabets and special characters are written as xn-- in names and as %XX in paths); write one like client=https://matrix.example.com"),
	refuses("client=https://matrix!.example.com", "client='https://matrix!.example.com': has the host 'matrix!.example.com', which is neither a name nor an IP address; write client=https://matrix.example.com"),
	refuses("client=https://1.2.3", "client='https://1.2.3': has the host '1.2.3', which is neither a name nor an IP address; write client=https://matrix.example.com"),
	refuses("client=https://matrix.example.0x1", "client='https://matrix.example.0x1': has the host 'matrix.example.0x1', which is neither a name nor an IP address; write client=https://matrix.example.com"),
	refuses("client=https://[fe80::1%25eth0]", "client='https://[fe80::1%25eth0]': has the host 'fe80::1%eth0', which is neither a name nor an IP address; write client=https://matrix.example.com"),
	refuses("client=https://admin:secret@matrix.example.com", "client='https://admin:secret@matrix.example.com': has a user name, which everyone could read; write it without, as in client=https://matrix.example.com"),
	refuses("client=https://matrix.example.com/?a=b", "client='https://matrix.example.com/?a=b': has a query (?…), but paths are appended to it; write it without, as in client=https://matrix.example.com"),
	refuses("client=https://matrix.example.com?", "client='https://matrix.example.com?': has a query (?…), but paths are appended to it; write it without, as in client=https://matrix.example.com"),
	refuses("client=https://matrix.example.com/#", "client='https://matrix.example.com/#': has a fragment (#…), but paths are appended to it; write it without, as in client=https://matrix.example.com"),
	refuses("client=https://matrix.example.com/a/%2E./b", "client='https://matrix.example.com/a/%2E./b': has . or .. in its path; write the path that is meant"),
	refuses("client=https://matrix.example.com/é", "client='https://matrix.example.com/é': is not a URL (other alphabets and special characters are written as xn-- in names and as %XX in paths); write one like client=https://matrix.example.com"),
	refuses("client=https://matrix.example.com\\x", "client='https://matrix.example.com\\\\x': is not a URL (other alphabets and special characters are written as xn-- in names and as %XX in paths); write one like client=https://matrix.example.com"),
	refuses("supportPage=example.com/support", "supportPage='example.com/support': does not begin with https://; write supportPage=https://example.com/support"),
	refuses("supportPage=mailto:admin", "supportPage='mailto:admin': is not a mailto: URL; write supportPage=mailto:admin@example.com, or supportEmail=admin@example.com"),
	refuses("supportPage=javascript:alert(1)", "supportPage='javascript:alert(1)': does not begin with https://; write supportPage=https://example.com/support"),
	{
		Name:   "refuses bad URLs of the client document, all at once",
		Labels: []string{"client=https://matrix.example.com", "identityServer=vector.im", "livekit=https://a.example.com, https://b.example.com,,livekit.example.com"},
		Errors: []string{
			"identityServer='vector.im': does not begin with https://; write identityServer=https://vector.im",
			"livekit=' https://b.example.com': has a space; write it without, as in livekit=https://livekit.example.com",
			"livekit='': has an empty entry; write URLs separated by single commas, as in livekit=https://livekit.example.com,https://livekit.example.org",
			"livekit='livekit.example.com': does not begin with https://; write livekit=https://livekit.example.com",
		},
	},
	{
		Name:   "refuses parts of the client document without client",
		Labels: []string{"identityServer=https://id.example.com", "livekit=https://a.example.com,https://b.example.com", `clientExtra={"a.b":1}`},
		Errors: []string{
			"identityServer='https://id.example.com': is part of the client document, which needs client; add client=https://matrix.example.com",
			"livekit='https://a.example.com,https://b.example.com': is part of the client document, which needs client; add client=https://matrix.example.com",
			`clientExtra='{"a.b":1}': is part of the client document, which needs client; add client=https://matrix.example.com`,
		},
	},

	// Bad configuration: contacts.
	refuses("supportEmail=admin", "supportEmail='admin': is not an email address; write one like admin@example.com"),
	refuses("supportEmail=Admin <admin@example.com>", "supportEmail='Admin <admin@example.com>': is not an email address; write one like admin@example.com"),
	refuses("supportMxid=admin:example.com", "supportMxid='admin:example.com': is not a Matrix ID; write one like @admin:example.com"),
	refuses("supportMxid=@admin", "supportMxid='@admin': is not a Matrix ID; write one like @admin:example.com"),
	refuses("supportMxid=@:example.com", "supportMxid='@:example.com': is not a Matrix ID; write one like @admin:example.com"),
	refuses("supportMxid=@admin:exa_mple.com", "supportMxid='@admin:exa_mple.com': is not a Matrix ID; write one like @admin:example.com"),
	refuses("supportMxid=@admin:example.com:x", "supportMxid='@admin:example.com:x': is not a Matrix ID; write one like @admin:example.com"),
	refuses("supportPgpKey=https://example.com/key.asc", "supportPgpKey='https://example.com/key.asc': is the key of a contact that has neither an email address nor a Matrix ID; add supportEmail=admin@example.com or supportMxid=@admin:example.com"),
	{
		Name: "refuses contacts, all at once",
		Labels: []string{
			"supportRole=admin", "supportEmail=a@example.com", "supportPgpKey=0123 4567",
			"supportContacts[0].role=m.role.moderator", "supportContacts[0].pgpKey=https://",
			"supportContacts[1].role=Org.Example", "supportContacts[1].email=@a:example.com", "supportContacts[1].mxid=a@example.com",
		},
		Errors: []string{
			"supportRole='admin': is not a role; write m.role.admin, m.role.security, or one in a namespace of your own, as in org.example.moderator",
			"supportPgpKey='0123 4567': is not a URI; write where the key is, supportPgpKey=https://example.com/key.asc, or its fingerprint without spaces, supportPgpKey=openpgp4fpr:0123456789ABCDEF0123456789ABCDEF01234567",
			"supportContacts[0].role='m.role.moderator': is not a role; write m.role.admin, m.role.security, or one in a namespace of your own, as in org.example.moderator",
			"supportContacts[0].pgpKey='https://': has no host; write supportContacts[0].pgpKey=https://example.com/key.asc",
			"supportContacts[0]: has neither an email address nor a Matrix ID; write supportContacts[0].email=admin@example.com or supportContacts[0].mxid=@admin:example.com",
			"supportContacts[1].role='Org.Example': is not a role; write m.role.admin, m.role.security, or one in a namespace of your own, as in org.example.moderator",
			"supportContacts[1].email='@a:example.com': is not an email address; write one like admin@example.com",
			"supportContacts[1].mxid='a@example.com': is not a Matrix ID; write one like @admin:example.com",
		},
	},

	// Bad configuration: policy server.
	refuses("policyServerPublicKey="+publicKey+"=", "policyServerPublicKey='"+publicKey+"=': has padding; write it without the = at its end"),
	refuses("policyServerPublicKey= "+publicKey, "policyServerPublicKey=' "+publicKey+"': has a space or a line break; write it without"),
	refuses("policyServerPublicKey=secret!", "policyServerPublicKey='secret!': is not base64; write the 43 characters that the policy server prints as its ed25519 public key"),
	refuses("policyServerPublicKey=6yhHGKhCiXTSEN2ksjV7kX/N6rBQZ3Xb-M7LlC6NS-s", "policyServerPublicKey='6yhHGKhCiXTSEN2ksjV7kX/N6rBQZ3Xb-M7LlC6NS-s': is not base64; write the 43 characters that the policy server prints as its ed25519 public key"),
	refuses("policyServerPublicKey=6yhHGKhCiXTSEN2ksjV7kX_N6rBQZ3Xb-M7LlC6NS-t", "policyServerPublicKey='6yhHGKhCiXTSEN2ksjV7kX_N6rBQZ3Xb-M7LlC6NS-t': is not base64; write the 43 characters that the policy server prints as its ed25519 public key"),
	refuses("policyServerPublicKey=AAAA", "policyServerPublicKey='AAAA': is not 32 bytes long, as an ed25519 public key is; write the 43 characters that the policy server prints"),

	// Bad configuration: JSON.
	refusesExtra(`{`, `clientExtra='{': is not JSON (unexpected end of JSON input); write one JSON object, as in {"org.example.key":"value"}`),
	refusesExtra(`{"a.b":1} {}`, `clientExtra='{"a.b":1} {}': is not JSON (invalid character '{' after top-level value); write one JSON object, as in {"org.example.key":"value"}`),
	refusesExtra(`["a.b"]`, `clientExtra='["a.b"]': is JSON, but not an object; write one JSON object, as in {"org.example.key":"value"}`),
	refusesExtra(`null`, `clientExtra='null': is JSON, but not an object; write one JSON object, as in {"org.example.key":"value"}`),
	refusesExtra(`{"a.b":1,"a.b":2}`, `clientExtra='{"a.b":1,"a.b":2}': has the key 'a.b' twice; write it once`),
	refusesExtra(`{"a.b":[{"c":1,"\u0063":2}]}`, `clientExtra='{"a.b":[{"c":1,"\\u0063":2}]}': has the key 'c' twice; write it once`),
	refusesExtra(`{"element":1}`, "clientExtra: has the key 'element', which has no namespace; write it with one, as in io.element.e2ee or org.example.key"),
	refusesExtra(`{"":1}`, "clientExtra: has the key '', which has no namespace; write it with one, as in io.element.e2ee or org.example.key"),
	refusesExtra(`{"m.homeserver":{}}`, "clientExtra: has the key 'm.homeserver', which the option client writes; remove it here, or that option"),
	refusesExtra(`{"org.matrix.msc3575.proxy":{}}`, "clientExtra: has the key 'org.matrix.msc3575.proxy', which the option slidingSync writes; remove it here, or that option"),
	refusesExtra(`{"m.identity_server":{"base_url":"https://a.example"}}`, "clientExtra: has the key 'm.identity_server', which the option identityServer writes; remove it here, or that option", "identityServer=https://id.example.com"),
	refusesExtra(`{"org.matrix.msc4143.rtc_foci":[]}`, "clientExtra: has the key 'org.matrix.msc4143.rtc_foci', which the option livekit writes; remove it here, or that option", "livekit=https://a.example.com"),
	refusesExtra(`{"m.rtc_foci":[]}`, "clientExtra: has 'm.rtc_foci', and the option livekit writes the same thing as 'org.matrix.msc4143.rtc_foci'; keep one of the two", "livekit=https://a.example.com"),
	refusesExtra(`{"m.rtc_foci":[],"org.matrix.msc4143.rtc_foci":[]}`, "clientExtra: has 'm.rtc_foci' and 'org.matrix.msc4143.rtc_foci', two names of one thing; keep one of the two"),
	refusesExtra(`{"m.tile_server":{},"org.matrix.msc3488.tile_server":{}}`, "clientExtra: has 'm.tile_server' and 'org.matrix.msc3488.tile_server', two names of one thing; keep one of the two"),
	refusesExtra(`{"m.server":"matrix.example.com:443"}`, "clientExtra: has the key 'm.server', which belongs in the server document; write the option server=matrix.example.com:443 instead"),
	refusesExtra(`{"m.identity_server":null}`, "clientExtra: has 'm.identity_server' without a base_url, on which logins fail; remove it, or write the option identityServer=https://identity.example.com"),
	refusesExtra(`{"m.identity_server":{}}`, "clientExtra: has 'm.identity_server' without a base_url, on which logins fail; remove it, or write the option identityServer=https://identity.example.com"),
	refuses(`documents.mautrix=[]`, `documents.mautrix='[]': is JSON, but not an object; write one JSON object, as in {"org.example.key":"value"}`),
	refuses(`documents.mautrix={"a":1}x`, `documents.mautrix='{"a":1}x': is not JSON (invalid character 'x' after top-level value); write one JSON object, as in {"org.example.key":"value"}`),
	refuses(`documents.a b={}`, `documents: 'a b' can't be the last part of a URL; write a name of letters, digits, - and _, as in documents.mautrix`),
	refuses(`documents.a/b={}`, `documents: 'a/b' can't be the last part of a URL; write a name of letters, digits, - and _, as in documents.mautrix`),
	refuses(`documents.a%20b={}`, `documents: 'a%20b' can't be the last part of a URL; write a name of letters, digits, - and _, as in documents.mautrix`),
	refuses(`documents.client={}`, `documents.client: this document has options of its own; write client and clientExtra instead`),
	refuses(`documents.server={}`, `documents.server: this document has options of its own; write server instead`),
	refuses(`documents.support={}`, `documents.support: this document has options of its own; write supportPage, supportEmail and supportMxid instead`),
	refuses(`documents.policy_server={}`, `documents.policy_server: this document has options of its own; write policyServerPublicKey instead`),
	refuses(`documents.a.b={}`, `documents.a='{"b":"{}"}': is not text; write the whole JSON object as one string: documents.a='{"org.example.key":"value"}'`),

	// Bad configuration: the rest.
	{
		Name: "refuses a negative age", Labels: append([]string{"cacheMaxAge=-1"}, guide...),
		Errors: []string{"cacheMaxAge='-1': is not a number of seconds from 0 to 172800 (48 hours, the most that other servers keep an answer); write cacheMaxAge=3600"},
	},
	{
		Name: "refuses an age over 48 hours", Labels: append([]string{"cacheMaxAge=172801"}, guide...),
		Errors: []string{"cacheMaxAge='172801': is not a number of seconds from 0 to 172800 (48 hours, the most that other servers keep an answer); write cacheMaxAge=3600"},
	},
	{
		Name: "refuses a configuration without a document", Labels: []string{"cacheMaxAge=60", "standalone=true", "slidingSync=true", "supportRole=m.role.admin", "server="},
		Errors: []string{"no option says what to serve: set at least one, for example server=matrix.example.com:443"},
	},
	refuses("sever=matrix.example.com:443", "sever='matrix.example.com:443': there is no such option; did you mean server?"),
	refuses("identity_server=https://id.example.com", "identity_server='https://id.example.com': there is no such option; did you mean identityServer?"),
	refuses("support.email=a@example.com", "support.email='a@example.com': there is no such option; did you mean supportEmail?"),
	refuses("supportContact[0].email=a@example.com", "supportContact[0].email='a@example.com': there is no such option; did you mean supportContacts[n].email?"),
	refuses("document.mautrix={}", "document.mautrix='{}': there is no such option; did you mean documents.<name>?"),
	refuses("sev\ner\x01=x", `sev\ner\x01='x': there is no such option; did you mean server?`),
	refuses("documents.a\x01.b={}",
		`documents: 'a\x01' can't be the last part of a URL; write a name of letters, digits, - and _, as in documents.mautrix`,
		`documents.a\x01='{"b":"{}"}': is not text; write the whole JSON object as one string: documents.a\x01='{"org.example.key":"value"}'`),
	refuses("homeserver=x", "homeserver='x': there is no such option; did you mean server?"),
	{
		Name: "refuses an unknown option inside a contact, and one like no other",
		Labels: append([]string{
			"supportContacts[0].mxid=@a:example.com", "supportContacts[0].emial=a@example.com",
			"supportContacts[1].mxid=@a:example.com", "supportContacts[1].pgp.key=x", "zzz[0].q=1",
		}, guide...),
		Errors: []string{
			"zzz[0].q='1': there is no such option; the options are server, serverWithoutPort, client, slidingSync, identityServer, livekit, clientExtra, supportPage, supportRole, supportEmail, supportMxid, supportPgpKey, policyServerPublicKey, documents.<name>, cacheMaxAge, standalone, supportContacts[n].role, supportContacts[n].email, supportContacts[n].mxid, supportContacts[n].pgpKey",
			"supportContacts[0].emial='a@example.com': there is no such option; did you mean supportContacts[0].email?",
			"supportContacts[1].pgp.key='x': there is no such option; did you mean supportContacts[1].pgpKey?",
		},
	},
	{
		Name:   "refuses everything at once",
		Labels: []string{"server=https://matrix.example.com", "client=matrix.example.com", "suportEmail=admin@example.com"},
		Errors: []string{
			"server='https://matrix.example.com': is a URL, but other servers want only host and port; write server=matrix.example.com:443",
			"client='matrix.example.com': does not begin with https://; write client=https://matrix.example.com",
			"suportEmail='admin@example.com': there is no such option; did you mean supportEmail?",
		},
	},
	{
		Name: "cuts a long value short", Labels: []string{"server=" + long},
		Errors: []string{"server='" + long[:200] + "…': is longer than 255 characters; write a name such as server=matrix.example.com:443"},
	},
}
