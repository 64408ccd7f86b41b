"""HTTP by contract: an outsider's door to the daemon's operations. It never imports the model.

`app` puts the routes together, `routes` is the table of them, `requests` what goes in, `replies` what goes out, `bodies` reads a
request, `strictjson` its JSON. `guard` asks for the token, `claims` looks at what a body claims, `refusals` counts who was not
let in. `server` runs it all on its sockets: `listener` counts their connections, and a `connection` waits for no slow client.
"""
