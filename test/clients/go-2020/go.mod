module driver

go 1.19

require golang.org/x/oauth2 v0.0.0-20190604053449-0f29369cfe45

require (
	github.com/golang/protobuf v1.2.0 // indirect
	golang.org/x/net v0.0.0-20190108225652-1e06a53dbb7e // indirect
	google.golang.org/appengine v1.4.0 // indirect
)
