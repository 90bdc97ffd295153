from hypoll import Routes

routes = Routes()


@routes.get("/")
def hello(request):
    return {"hello": request.query.get("name", "world")}
