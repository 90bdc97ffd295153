-- An order of 200 bytes.
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.body = '{"id":4711,"customer":"Ada Lovelace","lines":[{"article":"punched card","quantity":12,"price":"0.05"},'
  .. '{"article":"brass wheel","quantity":7,"price":"2.50"}],"note":"leave it at the back door, please"}'
